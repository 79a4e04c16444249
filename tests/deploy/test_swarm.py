"""Three gateways on a Swarm of this machine: one is killed under load, and a token is revoked.

What can't be had here is stood in for: the Redis image by this machine's redis-server. The kernel's
IPVS, which Swarm balances published ports with, is not everywhere: the load resolves the gateways'
names itself.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml

from mcpcp import keyring, tokens
from mcpcp.policy import Allowlist
from tests.conftest import PROJECT
from tests.deploy.compose import read
from tests.deploy.images import DEADLINE
from tests.engine import NetworkedEngine, absent, add_programs, import_image

pytestmark = [pytest.mark.docker, pytest.mark.timeout(3600)]

REDIS = "mcpcp-tests-redis:latest"
STACK = "mcpcptestswarm"
TOOL = "time_get_current_time"
LOAD = Path(__file__).with_name("load.py")
Calls = list[dict[str, Any]]


class Swarm:
    """The engine as a Swarm of one machine, and the stack on it."""

    def __init__(self, engine: NetworkedEngine, folder: Path, keys: Path) -> None:
        self.engine = engine
        self.folder = folder
        self.keys = keys
        self.client = docker.DockerClient(base_url=engine.host, timeout=DEADLINE)

    def run(self, *args: str) -> str:
        """The docker command line."""
        ran = subprocess.run(
            ["docker", "--host", self.engine.host, *args],
            cwd=PROJECT / "deploy" / "swarm",
            env={
                **os.environ,
                "REDIS_PASSWORD": "a-password",
                "REDIS_IMAGE": REDIS,
                "KEYS_DIR": str(self.keys),
            },
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def deploy(self) -> None:
        """The stack as it is, but for the published port."""
        stack = read(PROJECT / "deploy" / "swarm" / "stack.yaml")
        del stack["services"]["gateway"]["ports"]
        stack["services"]["gateway"]["deploy"]["endpoint_mode"] = "dnsrr"
        stack["configs"]["fleet"]["file"] = str(PROJECT / "deploy" / "swarm" / "mcpcp.json")
        file = self.folder / "stack.yaml"
        file.write_text(yaml.safe_dump(stack))
        self.run("stack", "deploy", "--compose-file", str(file), "--resolve-image", "never", STACK)

    def healthy(self, service: str) -> list[Any]:
        """Its containers that are well."""
        label = f"com.docker.swarm.service.name={STACK}_{service}"
        wanted: dict[str, str | list[str] | bool] = {"label": label, "health": "healthy"}
        # The engine removes what it replaces while we look.
        return list(self.client.containers.list(filters=wanted, ignore_removed=True))

    def until(self, condition: Callable[[], Any]) -> Any:
        """The first true value of `condition`."""
        deadline = time.monotonic() + DEADLINE
        while not (value := condition()):
            assert time.monotonic() < deadline, self.describe()
            time.sleep(0.2)
        return value

    def describe(self) -> str:
        """What there is, for who reads a failure."""
        containers = self.client.containers.list(all=True, ignore_removed=True)
        logs = [f"{c.name} {c.status}\n{c.logs(tail=15).decode()}" for c in containers]
        return self.run("stack", "ps", "--no-trunc", STACK) + "\n".join(logs)

    def addresses(self, service: str) -> set[str]:
        """Where its containers that are well are on the network that clients are on."""
        return {self.address(container) for container in self.healthy(service)}

    def address(self, container: Any) -> str:
        """Where a container is on that network."""
        networks = container.attrs["NetworkSettings"]["Networks"]
        return str(networks[f"{STACK}_front"]["IPAddress"])

    @contextmanager
    def load(self, image: str, token: str) -> Iterator[Calls]:
        """Calls go on while the context is open; then all that were made."""
        calls: Calls = []
        command = [
            *("docker", "--host", self.engine.host, "run", "--rm", "--interactive"),
            *("--network", f"{STACK}_front", "--no-healthcheck"),
            *("--entrypoint", "python", image, "-u", "-c", LOAD.read_text()),
        ]
        settings = {"name": "gateway", "port": 9003, "tool": TOOL, "token": token}
        with (
            (self.folder / "calls").open("wb") as out,
            (self.folder / "errors").open("wb") as errors,
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=out, stderr=errors, text=True
            ) as program,
        ):
            assert program.stdin is not None
            program.stdin.write(json.dumps(settings) + "\n")
            program.stdin.flush()
            try:
                # A gateway that began before its tool server tries that again in its own time.
                self.until(lambda: _steady(self.made()) or program.poll() is not None)
                begun = len(self.made())
                yield calls
                program.stdin.close()
                assert program.wait(DEADLINE) == 0, (self.folder / "errors").read_text()
            finally:
                program.kill()
        calls += self.made()[begun:]

    def made(self) -> Calls:
        """The calls so far."""
        lines = (self.folder / "calls").read_text().split("\n")[:-1]
        return [json.loads(line) for line in lines]


@pytest.fixture
def swarm(
    networked_engine: NetworkedEngine, image: str, tmp_path: Path, keys: Path
) -> Iterator[Swarm]:
    if shutil.which("redis-server") is None:
        absent("redis-server")
    made = Swarm(networked_engine, tmp_path, keys)
    import_image(made.client, REDIS, _redis)
    made.run("swarm", "init", "--advertise-addr", "127.0.0.1")
    try:
        yield made
    finally:
        made.run("swarm", "leave", "--force")
        made.client.close()


def _redis(tar: tarfile.TarFile) -> None:
    add_programs(tar, {"/bin/redis-server": shutil.which("redis-server") or ""})


def test_a_killed_gateway_loses_only_what_it_had_and_a_revoked_token_is_refused_by_all(
    swarm: Swarm, image: str, keys: Path
) -> None:
    swarm.deploy()
    swarm.until(lambda: len(swarm.healthy("gateway")) == 3 and len(swarm.healthy("time")) == 2)
    key = keyring.load_signing(keys)
    token = tokens.issue(key, "claude", Allowlist.of({"*": ["*"]}), ttl=3600)

    victim = swarm.healthy("gateway")[0]
    where = swarm.address(victim)
    with swarm.load(image, token) as calls:
        began = time.time()
        victim.kill()
        killed = time.time()
        before = len(swarm.made())
        swarm.until(lambda: len(swarm.made()) > before + 200)
        swarm.until(lambda: len(swarm.healthy("gateway")) == 3)
        swarm.until(lambda: _callees(swarm.made()[before:]) >= swarm.addresses("gateway"))
    lost = [call for call in calls if call["outcome"] != "ok"]
    assert all((c["address"], c["outcome"]) == (where, "cut") for c in lost), lost[:5]
    assert all(call["began"] <= killed for call in lost), (began, killed, lost[:5])
    assert len(lost) <= 6, "each of the load's threads has one call in flight"

    gateways = swarm.healthy("gateway")
    with swarm.load(image, token) as calls:
        code, said = gateways[0].exec_run(["python", "-m", "mcpcp", "token", "revoke", token])
        assert code == 0, said
        swarm.until(lambda: _refusals(swarm.made()).keys() >= swarm.addresses("gateway"))
    refused = _refusals(calls)
    fine = [c for c in calls if c["outcome"] == "ok"]
    late = [c for c in fine if c["began"] > refused.get(c["address"], float("inf"))]
    assert not late, (refused, late[:5])
    other = Counter(
        c["outcome"] for c in calls if c["outcome"] != "ok" and "revoked" not in c["outcome"]
    )
    assert not other


def _steady(calls: Calls) -> bool:
    """Whether all gateways have lately answered every call."""
    last = calls[-60:]
    fine = all(call["outcome"] == "ok" for call in last)
    return len(last) == 60 and fine and len({call["address"] for call in last}) == 3


def _callees(calls: Calls) -> set[str]:
    """The gateways that answered."""
    return {call["address"] for call in calls if call["outcome"] == "ok"}


def _refusals(calls: Calls) -> dict[str, float]:
    """When each gateway that refused the token had done so for the first time."""
    refused = [(call["address"], call["ended"]) for call in calls if "revoked" in call["outcome"]]
    return {address: min(at for a, at in refused if a == address) for address, _ in refused}
