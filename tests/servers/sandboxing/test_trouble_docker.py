"""A full disk and a machine without processes, where containers are the sandboxes."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx2
import pytest
from docker.errors import APIError
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

from servers.docker_policy import ownership
from servers.sandboxing import pinning, pull
from tests.disks import Disk, small_disk
from tests.engine import IMAGE, Dockerd, DockerEngine, absent, import_image
from tests.engine import _fill as fill_image
from tests.registry import open_registry
from tests.servers.harness import Script, running

if sys.platform != "linux":
    pytest.skip("only Linux limits processes so", allow_module_level=True)

from tests.servers.sandboxing.test_trouble import SANDBOX, execute, full_disk, no_process_left

pytestmark = [pytest.mark.anyio, pytest.mark.docker, pytest.mark.timeout(600)]

PATIENCE = 200.0


@contextmanager
def started(host: str, folder: Path) -> Iterator[Script]:
    """A server whose sandboxes are containers; when it has stopped in order, none is left."""
    env = {
        "DOCKER_HOST": host,
        "MCPCP_DATA_DIR": str(folder),
        "SANDBOX_BACKEND": "docker",
        "SANDBOX_IMAGE": IMAGE,
        "SANDBOX_IMPORTS": "",
    }
    with running(SANDBOX, env=env) as script:
        yield script
        script.process.terminate()
        script.process.wait(PATIENCE)
        assert containers_of(script, host) == []


def containers_of(script: Script, host: str) -> list[str]:
    with DockerEngine(host).client() as client:
        found = client.api.containers(all=True, filters={"label": ownership.MAKER})
    made_by = f"/{script.process.pid}/"
    return [c["Id"] for c in found if made_by in c["Labels"][ownership.MAKER]]


async def without_containers(
    opened: Client, script: Script, host: str, fill: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """The refusal that comes when none of those that were there is left.

    `fill` takes the room that they leave; it is a race with the server's next container.
    """

    def remove_them() -> None:
        with DockerEngine(host).client() as client:
            for container in containers_of(script, host):
                with suppress(APIError):  # the server removes it just now
                    client.api.remove_container(container, force=True)
                fill()

    ran = {"status": "ok"}
    with anyio.move_on_after(PATIENCE):
        while ran["status"] == "ok":
            await anyio.to_thread.run_sync(remove_them)
            ran = await execute(opened, "6 * 7")
    assert ran["status"] == "refused", ran
    return ran


@asynccontextmanager
async def connected(script: Script) -> AsyncIterator[Client]:
    """With patience: an engine may need many seconds for a container."""
    async with (
        httpx2.AsyncClient(timeout=PATIENCE) as http,
        Client(streamable_http_client(f"{script.url}/mcp", http_client=http)) as client,
    ):
        yield client


async def answered(client: Client) -> None:
    """Code is run, as soon as the machine lets it."""
    ran = {}
    with anyio.move_on_after(PATIENCE):
        while (ran := await execute(client, "6 * 7"))["result"] != "42":  # noqa: ASYNC110
            await anyio.sleep(0.2)
    assert ran["result"] == "42", ran


async def test_a_full_disk_costs_a_session_its_change_and_no_call_its_answer(
    docker_engine: DockerEngine, tmp_path: Path
) -> None:
    with started(docker_engine.host, tmp_path) as script:
        async with connected(script) as opened:
            await execute(opened, "open('kept', 'w').write('before')", session="s")
            with full_disk(script):
                code = "open('kept', 'w').write('x' * 999)\nprint('ran')"
                ran = await execute(opened, code, session="s")
                assert (ran["status"], ran["stdout"], ran["backend"]) == ("ok", "ran\n", "docker")
                assert "make room" in " ".join(ran["skipped"])
                new = await execute(opened, "1", session="new")
                assert new["status"] == "refused" and "make room" in new["stderr"]
                assert (await execute(opened, "6 * 7"))["result"] == "42"
            after = await execute(opened, "open('kept').read()", session="s")
            assert after["result"] == "'before'"


async def test_a_server_that_can_start_no_thread(
    docker_engine: DockerEngine, tmp_path: Path
) -> None:
    with started(docker_engine.host, tmp_path) as script:
        async with connected(script) as opened:
            await answered(opened)
            with no_process_left(script.process.pid):
                assert (await execute(opened, "6 * 7"))["result"] == "42"  # in what is there
                ran = await without_containers(opened, script, docker_engine.host)
                assert "no thread left" in ran["stderr"]
                health = await anyio.to_thread.run_sync(script.get, "/health")
                assert health.status_code == 200
            await answered(opened)


@pytest.fixture
def small_engine() -> Iterator[tuple[Dockerd, Disk]]:
    """An engine that keeps its containers on a small disk of its own."""
    if not shutil.which("dockerd"):
        absent("dockerd")
    options = "size=900m,nr_inodes=40000,mode=0755"
    with (
        # a short path, because its sockets lie below it
        tempfile.TemporaryDirectory(prefix="mcpcp-engine-") as folder,
        small_disk(Path(folder, "d"), options) as disk,
    ):
        (disk.root / "daemon.json").write_text("{}")
        engine = Dockerd(disk.root)
        try:
            engine.start()
            with DockerEngine(engine.host).client() as client:
                import_image(client, IMAGE, fill_image)
            yield engine, disk
        finally:
            engine.stop()
            unmount_all_below(disk.root)


def unmount_all_below(folder: Path) -> None:
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in reversed([m for m in mounts if m.startswith(f"{folder}/")]):
        subprocess.run(["umount", "-l", mount], check=False)


def test_an_image_is_pulled_onto_a_full_disk(
    small_engine: tuple[Dockerd, Disk], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, disk = small_engine
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    monkeypatch.setenv("SANDBOX_DATA", str(tmp_path / "data"))
    with (
        open_registry(tmp_path / "registry") as registry,
        DockerEngine(engine.host).client() as client,
    ):
        digest = registry.push(client, IMAGE, "team/python:1")
        client.images.remove(IMAGE)
        words = ["--image", f"{registry.address}/team/python:1", "--yes"]
        with disk.full(), pytest.raises(SystemExit) as ended, capturing() as said:
            pull.main(words)
        assert ended.value.code == 1 and "the engine's disk is full" in said.getvalue()
        assert pinning.read(tmp_path / "data") is None
        pull.main(words)
        pin = pinning.read(tmp_path / "data")
        assert pin is not None and pin.digest == digest
        # what is pinned is written as a whole or not at all
        with small_disk(tmp_path / "disk", "size=64k,mode=0755") as full, full.full():
            monkeypatch.setenv("SANDBOX_DATA", str(full.root / "data"))
            with pytest.raises(SystemExit) as ended, capturing() as said:
                pull.main(words)
            assert ended.value.code == 1 and "can't be written" in said.getvalue()
            assert pinning.read(full.root / "data") is None


@contextmanager
def capturing() -> Iterator[io.StringIO]:
    with redirect_stderr(io.StringIO()) as said:
        yield said


async def test_an_engine_whose_disk_is_full(
    small_engine: tuple[Dockerd, Disk], tmp_path: Path
) -> None:
    engine, disk = small_engine
    with started(engine.host, tmp_path / "data") as script:
        async with connected(script) as opened:
            await answered(opened)
            with disk.crowded():
                assert (await execute(opened, "6 * 7"))["result"] == "42"  # in what is there
                ran = await without_containers(opened, script, engine.host, disk.crowd)
                assert "make room where the engine keeps its data" in ran["stderr"]
                assert str(disk.root) not in ran["stderr"]
            await answered(opened)
