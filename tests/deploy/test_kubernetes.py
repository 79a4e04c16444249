"""The Kubernetes manifests: valid, strict about rights, and naming only what is there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml

from mcpcp.config import loads
from tests.conftest import PROJECT

ROOT = PROJECT / "deploy" / "kubernetes"
OVERLAYS = sorted(path.parent for path in ROOT.rglob("kustomization.yaml"))
WORKLOADS = ("Deployment", "StatefulSet")


def resources(overlay: Path) -> list[Any]:
    """Everything that an overlay makes, but for what is generated."""
    listed = yaml.safe_load((overlay / "kustomization.yaml").read_text())["resources"]
    return [one for name in listed for one in yaml.safe_load_all((overlay / name).read_text())]


def everything() -> Iterator[Any]:
    for overlay in OVERLAYS:
        for resource in resources(overlay):
            name = f"{resource['kind']}-{resource['metadata']['name']}"
            yield pytest.param(resource, id=name)


def pods() -> list[Any]:
    return [one for one in everything() if one.values[0]["kind"] in WORKLOADS]


def containers(workload: Any) -> list[Any]:
    pod = workload["spec"]["template"]["spec"]
    return [*pod.get("initContainers", ()), *pod["containers"]]


@pytest.mark.parametrize("resource", list(everything()))
def test_a_resource_is_what_kubernetes_takes(resource: Any) -> None:
    version = kubernetes_validate.latest_version()
    kubernetes_validate.validate(resource, version, strict=True)


def test_every_file_is_in_an_overlay() -> None:
    listed = {
        overlay / name
        for overlay in OVERLAYS
        for name in yaml.safe_load((overlay / "kustomization.yaml").read_text())["resources"]
    }
    assert listed == set(ROOT.rglob("*.yaml")) - set(ROOT.rglob("kustomization.yaml"))


@pytest.mark.parametrize("workload", pods())
def test_a_pod_meets_the_restricted_standard(workload: Any) -> None:
    pod = workload["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    for container in containers(workload):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert container["resources"]["requests"]["cpu"]


@pytest.mark.parametrize("workload", pods())
def test_what_listens_is_probed_where_it_listens(workload: Any) -> None:
    for container in containers(workload):
        ports = {port["name"] for port in container.get("ports", ())}
        probes = [container.get(f"{kind}Probe") for kind in ("startup", "liveness", "readiness")]
        used = {next(iter(probe.values()))["port"] for probe in probes if probe}
        assert used == ports


def test_services_budgets_and_policies_select_pods_that_there_are() -> None:
    for overlay in OVERLAYS:
        made = resources(overlay)
        labels = [one["spec"]["template"]["metadata"]["labels"] for one in made if pod_in(one)]
        for one in made:
            for selector in selectors(one):
                assert any(selector.items() <= label.items() for label in labels), (one, selector)


def pod_in(resource: Any) -> bool:
    return resource["kind"] in WORKLOADS


def selectors(resource: Any) -> Iterator[dict[str, str]]:
    spec = resource.get("spec", {})
    if resource["kind"] == "Service":
        yield spec["selector"]
    elif resource["kind"] in (*WORKLOADS, "PodDisruptionBudget"):
        yield spec["selector"]["matchLabels"]
    elif resource["kind"] == "NetworkPolicy":
        yield spec["podSelector"].get("matchLabels", {})
        for rule in (*spec.get("ingress", ()), *spec.get("egress", ())):
            for peer in (*rule.get("from", ()), *rule.get("to", ())):
                yield peer.get("podSelector", {}).get("matchLabels", {})


def test_what_is_scaled_and_mounted_is_there() -> None:
    made = resources(ROOT)
    names = {(one["kind"], one["metadata"]["name"]) for one in made}
    (scaler,) = [one["spec"] for one in made if one["kind"] == "HorizontalPodAutoscaler"]
    assert (scaler["scaleTargetRef"]["kind"], scaler["scaleTargetRef"]["name"]) in names
    for workload in filter(pod_in, made):
        pod = workload["spec"]["template"]["spec"]
        claims = workload["spec"].get("volumeClaimTemplates", ())
        volumes = {v["name"] for v in pod.get("volumes", ())} | {
            c["metadata"]["name"] for c in claims
        }
        for container in containers(workload):
            assert {m["name"] for m in container["volumeMounts"]} <= volumes


@pytest.mark.parametrize("folder", ["kubernetes", "swarm"])
def test_the_gateway_s_config_is_good_and_names_services_that_there_are(folder: str) -> None:
    path = PROJECT / "deploy" / folder / "mcpcp.json"
    config = loads(path.read_text(), Path("/app/mcpcp.json"), {"STATE_URL": "redis://redis/0"})
    assert not config.warnings
    text = "\n".join(file.read_text() for file in path.parent.glob("*.yaml"))
    for server in config.servers.values():
        place = urlsplit(server.url or "")
        assert (
            f"--allowed-host {place.hostname}" in text
            or f"--allowed-host, {place.hostname}" in text
        )
        assert str(place.port) in text
    assert json.loads(path.read_text())["gateway"]["host"] == "0.0.0.0"
