"""The compose projects: valid for both Composes, and up on a real engine."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import jsonschema
import pytest
import yaml

from tests.conftest import PROJECT
from tests.deploy.compose import NOTHING, project, read, shell_blocks
from tests.deploy.images import BASE, DEADLINE
from tests.engine import NetworkedEngine, absent, add_programs, import_image

pytestmark = pytest.mark.timeout(3600)

FILES = sorted(PROJECT.glob("deploy/*/compose.yaml"))
ADDITIONS = sorted(PROJECT.glob("deploy/*/compose.*.yaml"))
SPECIFICATION = Path(__file__).with_name("compose-spec.json")
"""The schema of Compose v2, as compose-go has it."""


@pytest.fixture(autouse=True)
def compose() -> None:
    if shutil.which("docker-compose") is None:
        absent("docker-compose")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.parent.name)
def test_a_compose_file_is_valid_for_v2_by_its_specification(file: Path) -> None:
    jsonschema.Draft7Validator(json.loads(SPECIFICATION.read_text())).validate(read(file))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.parent.name)
def test_a_compose_file_is_valid_for_1_29(file: Path) -> None:
    ran = subprocess.run(
        ["docker-compose", "--env-file", ".env.example", "--file", str(file), "config", "--quiet"],
        cwd=file.parent,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("file", ADDITIONS, ids=lambda file: file.name)
def test_an_addition_is_valid_for_both(file: Path) -> None:
    jsonschema.Draft7Validator(json.loads(SPECIFICATION.read_text())).validate(read(file))
    ran = subprocess.run(
        [
            *("docker-compose", "--env-file", ".env.example"),
            *("--file", "compose.yaml", "--file", file.name, "config", "--quiet"),
        ],
        cwd=file.parent,
        env={**os.environ, "DOCKER_GID": "999"},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.parent.name)
def test_no_port_leaves_the_machine_unless_it_is_told_to(file: Path) -> None:
    for name, service in read(file)["services"].items():
        for port in service.get("ports", ()):
            assert port.startswith(("127.0.0.1:", "${")) and ":-127.0.0.1}" in port, (name, port)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.parent.name)
def test_what_runs_our_image_has_few_rights(file: Path) -> None:
    for name, service in read(file)["services"].items():
        if "mcpcp" in service["image"]:
            assert service["read_only"] is True, name
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name
            assert service["mem_limit"], name
            assert service["pids_limit"], name


@pytest.mark.docker
def test_the_shop_is_up_and_answers_as_documented_and_down_leaves_nothing(
    networked_engine: NetworkedEngine, image: str, tmp_path: Path
) -> None:
    instead = tmp_path / "instead.yaml"
    instead.write_text(yaml.safe_dump({"services": {"mongo": embedded_database(image)}}))
    files = (PROJECT / "deploy" / "shop" / "compose.yaml", instead)
    with project(networked_engine, "mcpcptestshop", files, {"MCPCP_BASE": BASE}) as shop:
        shop.run("up", "--build", "--detach")
        until_healthy(networked_engine, "mcpcptestshop", 4)
        until_connected(networked_engine)
        said = [
            subprocess.run(
                networked_engine.inside("sh", "-ec", block),
                capture_output=True,
                text=True,
                timeout=DEADLINE,
                check=True,
            ).stdout
            for block in shell_blocks("deploy.md", "The shop with Compose")
        ]
        (lines,) = [text.replace("}{", "}\n{").splitlines() for text in said]
        healths, answers = lines[:3], [json.loads(line) for line in lines[3:]]
        assert [json.loads(health)["status"] for health in healths] == ["ok"] * 3
        assert [answer["result"]["isError"] for answer in answers] == [False] * 3
        products = answers[-1]["result"]["structuredContent"]["products"]
        assert [(p["name"], p["price"], p["quantity"]) for p in products] == [
            ("Lamp", "12.50 EUR", 3)
        ]
        assert cannot_write(networked_engine, "mcpcptestshop_auth_1")
    assert shop.left() == NOTHING


@pytest.mark.docker
def test_the_chat_is_up_and_answers_as_documented_and_down_leaves_nothing(
    networked_engine: NetworkedEngine, image: str, tmp_path: Path
) -> None:
    client = docker.DockerClient(base_url=networked_engine.host, timeout=DEADLINE)
    try:
        import_image(client, PROMETHEUS, prometheus)
    finally:
        client.close()
    copied = tmp_path / "deploy"  # what lasts is written beside compose.yaml
    shutil.copytree(PROJECT / "deploy", copied)
    instead = tmp_path / "instead.yaml"
    probe = "import urllib.request as u; u.urlopen('http://127.0.0.1:11434/v1/models')"
    model = {
        "image": image,
        "entrypoint": ["python", "-c", MODEL.read_text()],
        "healthcheck": {"test": ["CMD", "python", "-c", probe], **PATIENT},
    }
    metrics = {"entrypoint": ["/bin/prometheus"]}  # as the image that can't be pulled has it
    instead.write_text(yaml.safe_dump({"services": {"ollama": model, "prometheus": metrics}}))
    files = (copied / "chat" / "compose.yaml", copied / "chat" / "compose.docker.yaml", instead)
    socket = networked_engine.host.removeprefix("unix://")
    environ = {
        "DOCKER_GID": str(Path(socket).stat().st_gid),
        "DOCKER_SOCKET": socket,
        "MCPCP_BASE": BASE,
        "PROMETHEUS_IMAGE": PROMETHEUS,
        "GRAFANA_IMAGE": image,  # is not started: it would only be pulled
        "GRAFANA_PASSWORD": "x",
    }
    with project(networked_engine, "mcpcptestchat", files, environ) as chat:
        chat.run("up", "--no-build", "--detach", "--scale", "grafana=0")
        until_healthy(networked_engine, "mcpcptestchat", 6)
        blocks = shell_blocks("deploy.md", "The chat with Compose")
        docker_compose = "docker() { shift; " + shlex.join(chat.command()) + ' "$@"; }'
        command = "\n".join((docker_compose, *blocks))
        ran = subprocess.run(
            networked_engine.inside("bash", "-ec", command),
            env=chat.environment(),
            cwd=copied / "chat",
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        answers = [
            json.loads(line) for line in ran.stdout.replace("}{", "}\n{").splitlines() if line
        ]
        gateway, middleware, tools, executed, said, ran_code, both = answers
        assert gateway["status"] == middleware["status"] == "ok"
        assert "time_get_current_time" in json.dumps(tools), chat.run("logs", "mcp-server")
        assert "Europe/Paris" in json.dumps(executed)
        assert [call["name"] for call in said["tool_calls"]] == ["time_get_current_time"]
        assert "It is" in json.dumps(said["message"])
        assert "42" in json.dumps(ran_code)
        assert {call["name"]: call["error"] for call in both["tool_calls"]} == {
            "time_get_current_time": None,
            "code_executor_execute_code": None,
        }
        assert "Hello" in json.dumps(both["message"])
        until_scraped(networked_engine)
    assert chat.left() == NOTHING


PATIENT = {"interval": "1s", "timeout": "60s", "retries": 600}
"""For a stand-in's health check: it is slow where the machine is."""
PROMETHEUS = "mcpcp-tests-prometheus:latest"
MODEL = Path(__file__).with_name("model.py")


def prometheus(tar: tarfile.TarFile) -> None:
    """Debian's Prometheus, as its image has it."""
    program = shutil.which("prometheus")
    if program is None:
        absent("prometheus")
    add_programs(tar, {"/bin/prometheus": str(program)})


def until_scraped(engine: NetworkedEngine) -> None:
    """Wait until Prometheus has read the metrics of gateway and chat."""

    def scraped(said: Any) -> bool:
        found = said["data"]["result"]
        return len(found) == 2 and all(one["value"][1] == "1" for one in found)

    until_says(engine, "http://127.0.0.1:9090/api/v1/query?query=up", scraped)


def until_connected(engine: NetworkedEngine) -> None:
    """Wait until the shop's servers have found their database: they serve before that."""
    for port in (8000, 8001, 8002):
        until_says(engine, f"http://127.0.0.1:{port}/health", lambda said: said["status"] == "ok")


def until_says(engine: NetworkedEngine, url: str, wanted: Callable[[Any], bool]) -> None:
    """Wait until a GET is answered well, by JSON that is as wanted."""
    deadline = time.monotonic() + DEADLINE
    while True:
        command = engine.inside("curl", "-sS", "--fail", url)
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE)
        if ran.returncode == 0 and wanted(json.loads(ran.stdout)):
            return
        assert time.monotonic() < deadline, ran.stdout + ran.stderr
        time.sleep(0.5)


def embedded_database(image: str) -> dict[str, object]:
    """A stand-in for MongoDB, which can't be pulled here: the wire server of the launcher."""
    program = (
        "import servers.shop_database as database;"
        "database.HOST = '0.0.0.0';"
        "database.main(['--data-dir', '/data/db', '--port', '27017'])"
    )
    probe = "import socket; socket.create_connection(('127.0.0.1', 27017), 2).close()"
    return {
        "image": image,
        "user": "0:0",
        "entrypoint": ["python", "-c", program],
        "healthcheck": {"test": ["CMD", "python", "-c", probe], **PATIENT},
    }


def until_healthy(engine: NetworkedEngine, prefix: str, count: int) -> None:
    """Wait until that many containers that say how they are say that they are well."""
    client = docker.DockerClient(base_url=engine.host, timeout=DEADLINE)
    deadline = time.monotonic() + DEADLINE
    try:
        while True:
            everything = client.containers.list(all=True, ignore_removed=True)
            found = [c for c in everything if str(c.name).startswith(prefix)]
            healths = {c.name: c.attrs["State"].get("Health") for c in found}
            states = {name: health["Status"] for name, health in healths.items() if health}
            if len(states) == count and set(states.values()) == {"healthy"}:
                return
            if time.monotonic() > deadline:
                logs = "\n".join(c.logs(tail=20).decode() for c in found)
                raise AssertionError(f"{states}\n{logs}")
            time.sleep(0.2)
    finally:
        client.close()


def cannot_write(engine: NetworkedEngine, container: str) -> bool:
    """Whether a container is another user than root, on a root that it can't change."""
    program = "import os; assert os.getuid() == 10001; open('/app/x', 'w')"
    client = docker.DockerClient(base_url=engine.host, timeout=DEADLINE)
    try:
        code, output = client.containers.get(container).exec_run(["python", "-c", program])
        return code == 1 and b"Read-only file system" in output
    finally:
        client.close()
