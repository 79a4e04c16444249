"""What the machine does to the servers: a full disk, no processes left, an engine that leaves.

The next call works, and nothing is left over.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import psutil
import pytest
from docker.errors import APIError
from mcp.client.client import Client

from servers.docker_policy import ownership
from servers.sandboxing import cgroup
from servers.sandboxing.call import Call
from servers.sandboxing.candidates import candidates
from servers.sandboxing.sandbox import Sandbox
from servers.sandboxing.settings import Settings
from tests.engine import IMAGE, Dockerd, DockerEngine, no_engine
from tests.servers.harness import DEADLINE, ROOT, Script, connected, running, until
from tests.servers.sandboxing.runner import Runner, in_mid_call

if sys.platform != "linux":
    pytest.skip("only Linux limits processes so", allow_module_level=True)

pytestmark = pytest.mark.anyio

SANDBOX = ROOT / "servers" / "sandbox.py"


@contextmanager
def started(folder: Path) -> Iterator[Script]:
    env = {"SANDBOX_BACKEND": "bubblewrap", "MCPCP_DATA_DIR": str(folder)}
    with running(SANDBOX, env=env) as script:
        yield script


async def execute(opened: Client, code: str, **more: Any) -> dict[str, Any]:
    result = await opened.call_tool("execute_code", {"code": code, **more})
    assert isinstance(result.structured_content, dict), result
    return result.structured_content


@contextmanager
def full_disk(script: Script) -> Iterator[None]:
    """The server can write no file beyond its first bytes, as on a file system without room."""
    before = resource.prlimit(script.process.pid, resource.RLIMIT_FSIZE, (10, -1))
    try:
        yield
    finally:
        resource.prlimit(script.process.pid, resource.RLIMIT_FSIZE, before)


@contextmanager
def no_process_left(pid: int) -> Iterator[None]:
    """That process can start neither a process nor a thread; root is told by a control group."""
    groups = cgroup.find()
    if os.geteuid() != 0 or groups is None:
        before = resource.prlimit(pid, resource.RLIMIT_NPROC, (1, -1))
        try:
            yield
        finally:
            resource.prlimit(pid, resource.RLIMIT_NPROC, before)
        return
    parent = groups.parents["pids"]
    home = parent if groups.version == 1 else _group_of(pid)  # divided ones hold no processes
    group = parent / f"mcpcp-test-{pid}"
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(pid))
        (group / "pids.max").write_text("1")
        yield
        (home / "cgroup.procs").write_text(str(pid))
    finally:
        for left in (group / "cgroup.procs").read_text().split():
            (home / "cgroup.procs").write_text(left)
        group.rmdir()


def _group_of(pid: int) -> Path:
    """Its control group in version 2."""
    path = Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::/")
    return Path("/sys/fs/cgroup") / path


@pytest.mark.bwrap
async def test_a_full_disk_costs_a_session_its_change_and_no_call_its_answer(
    bwrap: Runner, tmp_path: Path
) -> None:
    with started(tmp_path) as script:
        async with connected(script.url, "http", "auto") as opened:
            await execute(opened, "open('kept', 'w').write('before')", session="s")
            with full_disk(script):
                ran = await execute(
                    opened, "open('kept', 'w').write('x' * 999)\nprint('ran')", session="s"
                )
                assert (ran["status"], ran["stdout"]) == ("ok", "ran\n")
                assert "the session stays as it was" in " ".join(ran["skipped"])
                assert "make room" in " ".join(ran["skipped"])
                new = await execute(opened, "1", session="new")
                assert new["status"] == "refused" and "make room" in new["stderr"]
                written = {"session": "s", "path": "p", "content": "x" * 999}
                said = await opened.call_tool("write_file", written)
                assert said.is_error and "make room" in str(said.content)
                assert (await execute(opened, "6 * 7"))["result"] == "42"
            after = await execute(opened, "open('kept').read()", session="s")
            assert after["result"] == "'before'"
            assert (await execute(opened, "6 * 7", session="new"))["result"] == "42"
            listed = await opened.call_tool("list_files", {})
            assert listed.structured_content
            assert {s["name"] for s in listed.structured_content["sessions"]} == {"s", "new"}
    folders = [manifest.parent for manifest in tmp_path.rglob("manifest.json")]
    assert sorted(len(list(folder.iterdir())) for folder in folders) == [1, 2]  # and one blob


def lives(process: psutil.Process) -> bool:
    """Whether it has not ended; nobody may have reaped it yet."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def maker_of(script: Script) -> psutil.Process:
    """The one that forks sandboxes: bubblewrap's only child."""
    [outermost] = psutil.Process(script.process.pid).children()
    [maker] = outermost.children()
    return maker


@pytest.mark.bwrap
async def test_a_maker_that_can_start_no_process(bwrap: Runner, tmp_path: Path) -> None:
    with started(tmp_path) as script:
        async with connected(script.url, "http", "auto") as opened:
            assert (await execute(opened, "1 + 1"))["result"] == "2"
            maker = maker_of(script)
            with no_process_left(maker.pid):
                refused = await use_up(opened, maker)
                assert "did not come up" in refused["stderr"]
                assert "unavailable" in refused["stderr"]
            assert (await execute(opened, "6 * 7"))["result"] == "42"
            assert maker_of(script).pid == maker.pid  # nobody had to be killed for it
    await until(lambda: not lives(maker))


@pytest.mark.bwrap
async def test_a_server_that_can_start_no_process_and_no_thread(
    bwrap: Runner, tmp_path: Path
) -> None:
    with started(tmp_path) as script:
        async with connected(script.url, "http", "auto") as opened:
            assert (await execute(opened, "1 + 1"))["result"] == "2"
            with no_process_left(script.process.pid):
                ended = psutil.Process(script.process.pid).children(recursive=True)
                ended[0].kill()  # the outermost, with which all others end
                await until(lambda: not any(map(lives, ended)))
                refused = await execute(opened, "6 * 7")
                assert refused["status"] == "refused"
                assert "can't be started" in refused["stderr"]
                assert script.get("/health").status_code == 200
            assert (await execute(opened, "6 * 7"))["result"] == "42"


async def use_up(opened: Client, maker: psutil.Process) -> dict[str, Any]:
    """The first answer when no sandbox waits any more."""
    with anyio.fail_after(DEADLINE):
        while (ran := await execute(opened, "6 * 7"))["status"] == "ok":
            pass
    return ran


def containers_of_ours(engine: DockerEngine) -> list[str]:
    with engine.client() as client:
        label = f"{ownership.MAKER}={ownership.maker()}"
        found = client.api.containers(all=True, filters={"label": label})
        return [str(container["Id"]) for container in found]


@asynccontextmanager
async def by_containers(engine: DockerEngine, folder: Path) -> AsyncIterator[Sandbox]:
    """A sandbox of containers; at the end none is there."""
    settings = replace(
        Settings(sessions=folder), backend="docker", images=(IMAGE,), imports=(), warm=2
    )
    sandbox = Sandbox(settings, candidates)
    async with sandbox.ready():
        first = await sandbox.run(Call("1 + 1"))
        assert (first.result, first.backend) == ("2", "docker"), first
        yield sandbox
    assert await anyio.to_thread.run_sync(containers_of_ours, engine) == []


def kill(engine: DockerEngine, containers: list[str]) -> None:
    with engine.client() as client:
        for container in containers:
            with suppress(APIError):  # made, and not started yet
                client.api.kill(container)


@pytest.mark.docker
async def test_an_engine_that_is_stopped_and_started_and_containers_that_are_killed(
    own_engine: Dockerd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One test, because an engine of its own takes seconds to make."""
    monkeypatch.setenv("DOCKER_HOST", own_engine.host)
    engine = DockerEngine(own_engine.host)
    with no_engine():
        await through_its_troubles(own_engine, engine, tmp_path)


async def through_its_troubles(own_engine: Dockerd, engine: DockerEngine, folder: Path) -> None:
    async with by_containers(engine, folder) as sandbox:
        pool = sandbox._pool
        assert pool is not None
        await until(lambda: pool.ready == 1)
        there = await anyio.to_thread.run_sync(containers_of_ours, engine)
        await anyio.to_thread.run_sync(kill, engine, there)
        assert (await sandbox.run(Call("6 * 7"))).result == "42"

        async with in_mid_call(sandbox) as outcomes:
            running_now = await anyio.to_thread.run_sync(containers_of_ours, engine)
            await anyio.to_thread.run_sync(kill, engine, running_now)
        assert [outcome.status for outcome in outcomes] == ["killed"]
        assert (await sandbox.run(Call("6 * 7"))).result == "42"

        async with in_mid_call(sandbox) as outcomes:
            await anyio.to_thread.run_sync(own_engine.stop)
        assert [outcome.status for outcome in outcomes] == ["killed"]
        away = await sandbox.run(Call("6 * 7"))
        assert away.status == "refused" and "no Docker engine answers" in away.stderr
        await anyio.to_thread.run_sync(own_engine.start)
        assert (await sandbox.run(Call("6 * 7"))).result == "42"
