"""The script docker_commands.py, started as it is and called by the SDK's client."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import anyio
import pytest
from docker import DockerClient
from docker.errors import NotFound

from servers.docker_policy import ownership
from tests.engine import IMAGE, DockerEngine
from tests.servers.harness import DEADLINE, ROOT, Script, connected, running, wait_until

pytestmark = pytest.mark.anyio

SCRIPT = ROOT / "servers" / "docker_commands.py"
CREDENTIAL = "0123456789abcdef"


async def call(script: Script, command: str, agent: str | None = None) -> dict[str, Any]:
    credential = CREDENTIAL if agent else None
    async with connected(script.url, "http", "auto", credential) as client:
        meta: Any = {"mcpcp/agent": agent} if agent else None
        result = await client.call_tool("run_docker", {"command": command}, meta=meta)
        assert isinstance(result.structured_content, dict), result
        return result.structured_content


async def until_healthy(script: Script, status: str) -> dict[str, Any]:
    with anyio.fail_after(DEADLINE):
        while True:
            health: dict[str, Any] = script.get("/health").json()
            if health["status"] == status and "looking" not in health.get("detail", ""):
                return health
            await anyio.sleep(0.05)


async def test_it_offers_echo_and_run_docker() -> None:
    with running(SCRIPT) as script:
        async with connected(script.url, "sse", "legacy") as client:
            tools = (await client.list_tools()).tools
    assert sorted(tool.name for tool in tools) == ["echo", "run_docker"]


async def test_without_an_engine_it_answers_clearly_and_is_degraded(tmp_path: Path) -> None:
    with running(SCRIPT, env={"DOCKER_HOST": f"unix://{tmp_path}/none.sock"}) as script:
        answer = await call(script, "docker ps")
        assert answer["status"] == "unavailable" and "DOCKER_HOST" in answer["stderr"]
        refused = await call(script, "docker exec web sh")
        assert refused["status"] == "refused" and "possible are" in refused["stderr"]
        health = await until_healthy(script, "degraded")
        assert "no Docker engine" in health["detail"]
        assert script.get("/ready").status_code == 200


@pytest.mark.docker
async def test_an_engine_that_comes_later_is_used(
    docker_engine: DockerEngine, tmp_path: Path
) -> None:
    later = tmp_path / "d.sock"
    with running(SCRIPT, env={"DOCKER_HOST": f"unix://{later}"}) as script:
        assert (await call(script, "version"))["status"] == "unavailable"
        later.symlink_to(docker_engine.host.removeprefix("unix://"))
        assert (await call(script, "version"))["status"] == "ok"
        await until_healthy(script, "ok")


@pytest.mark.docker
async def test_each_agent_has_its_own_containers_and_a_stop_removes_them(
    docker_engine: DockerEngine,
) -> None:
    env = {"DOCKER_HOST": docker_engine.host, "DOCKER_IMAGE_ALLOWLIST": IMAGE}
    with running(SCRIPT, env=env, credential=CREDENTIAL) as script:
        made = await call(script, f"docker run -d --name web {IMAGE} sleep 600", "one")
        assert made["status"] == "ok", made
        assert "web" in (await call(script, "ps", "one"))["stdout"]
        assert "web" not in (await call(script, "ps -a", "two"))["stdout"]
        assert (await call(script, "rm -f web", "two"))["status"] == "error"
        assert script.stop(signal.SIGTERM) == 0
        # a server that stops waits a few seconds for the engine, and says where that is not enough
        waited_in_vain = [e for e in script.log if "containers stay behind" in e["message"]]
    with docker_engine.client() as client:
        left = client.api.containers(all=True, filters={"id": made["container"]})
        assert not left or waited_in_vain
        wait_until(lambda: not lives(client, made["container"]))


@pytest.mark.docker
async def test_a_sigkill_of_the_script_ends_its_containers(docker_engine: DockerEngine) -> None:
    env = {"DOCKER_HOST": docker_engine.host, "DOCKER_IMAGE_ALLOWLIST": IMAGE}
    with running(SCRIPT, env=env) as script, docker_engine.client() as client:
        made = await call(script, f"run -d {IMAGE} sleep 600")
        assert made["status"] == "ok", made
        assert client.api.inspect_container(made["container"])["State"]["Running"]
        os.kill(script.process.pid, signal.SIGKILL)
        wait_until(lambda: not lives(client, made["container"]))
        ownership.remove(client, made["container"])


def lives(client: DockerClient, container: str) -> bool:
    """Whether it runs; one whose maker is dead may be swept by any worker's server."""
    try:
        return bool(client.api.inspect_container(container)["State"]["Running"])
    except NotFound:
        return False
