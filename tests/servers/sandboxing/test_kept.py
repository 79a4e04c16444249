"""Containers that are kept: shared by calls, used up by none, gone when nobody needs them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import psutil
import pytest
from docker import DockerClient

from servers.docker_policy import ownership
from servers.sandboxing import engines, kept, seccomp
from servers.sandboxing.backend import which
from servers.sandboxing.call import Call
from servers.sandboxing.outcome import MIB, Outcome, SandboxBroken
from servers.sandboxing.sandbox import Sandbox
from servers.sandboxing.selftest import weaknesses
from servers.sandboxing.settings import Settings
from tests.engine import DockerEngine
from tests.servers.harness import DEADLINE, ROOT, connected, running, until
from tests.servers.sandboxing.kept import (
    LIMITS,
    TOOLS,
    containers,
    inside,
    made,
    survivors,
)
from tests.servers.sandboxing.runner import Runner, in_mid_call

pytestmark = [pytest.mark.anyio, pytest.mark.docker, pytest.mark.timeout(600)]

PATIENCE = 500.0
"""Seconds for code that runs until it is ended: more than any test waits for that."""


@pytest.fixture(autouse=True)
def in_the_engine(sandbox_image: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", sandbox_image[0])


@asynccontextmanager
async def serving(folder: Path, image: str, **other: object) -> AsyncIterator[Sandbox]:
    """A sandbox of containers that are kept; at the end none of them is there."""
    before = await made()
    settings = Settings(
        backend="docker", images=(image,), imports=(), sessions=folder, patience=PATIENCE
    )
    sandbox = Sandbox(replace(settings, **other))  # type: ignore[arg-type]
    async with sandbox.ready():
        first = await sandbox.run(Call("1 + 1"))
        assert (first.result, first.backend) == ("2", "docker"), first
        yield sandbox
    assert await made() <= before


async def test_calls_one_after_the_other_share_a_container(kept: Runner) -> None:
    await kept.run("1", LIMITS)
    before = await made()
    for _ in range(5):
        outcome = await kept.run("open('x', 'x')\n6 * 7", LIMITS)
        assert (outcome.result, outcome.backend) == ("42", "docker")
        assert outcome.isolation["container"] == "kept, for one call at a time"
    assert await made() == before


async def cancelled(kept: Runner, code: str, do: Callable[[], object] = lambda: None) -> None:
    """Have that done while the code runs, and cancel its call; returns when the call has ended."""
    heard = anyio.Event()

    async def listen(stream: str, text: str) -> None:
        heard.set()

    async def run() -> None:
        here = TOOLS + "print('here', flush=True)\n" + code
        await kept.run(here, replace(LIMITS, timeout=PATIENCE), listener=listen)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await until(heard.is_set)
        await anyio.to_thread.run_sync(do)
        tasks.cancel_scope.cancel()


async def test_a_call_that_is_cancelled_leaves_its_container_to_the_next(kept: Runner) -> None:
    await kept.run("1", LIMITS)
    before = await made()
    await cancelled(kept, "os.fork()\ntime.sleep(600)")
    assert not survivors()  # the call has not returned before
    assert (await kept.run("6 * 7", LIMITS)).result == "42"
    assert await made() == before


async def test_a_sandbox_that_does_not_see_its_end_is_killed(kept: Runner) -> None:
    """Others end by themselves when they are let go; the container is used on all the same."""
    still: list[psutil.Process] = []

    def suspend() -> None:
        [code] = survivors()
        still.append(psutil.Process(code.ppid()))
        still[0].suspend()

    await kept.run("1", LIMITS)
    before = await made()
    await cancelled(kept, "time.sleep(600)", suspend)
    assert not still[0].is_running()
    assert (await kept.run("6 * 7", LIMITS)).result == "42"
    assert await made() == before


async def test_a_call_that_is_cancelled_while_its_request_is_sent(kept: Runner) -> None:
    big = [(f"f{n}", os.urandom(2 * MIB)) for n in range(6)]
    for delay in (0.0, 0.001, 0.01, 0.05):
        with anyio.move_on_after(delay):
            await kept.run("1", LIMITS, big)
        outcome = await kept.run("import os\nos.listdir()", LIMITS)
        assert outcome.result == "[]", outcome


async def test_it_passes_the_self_test(kept: Runner) -> None:
    assert await weaknesses(kept.backend) == []


# -- what is done to it from outside --------------------------------------------------------------


def kill_each(whose: str, containers: set[str]) -> list[psutil.Process]:
    """Those that end with them: a sandbox ends alone, all end with the maker or the porter."""
    ending: list[psutil.Process] = []
    for container in containers:
        found = inside(container)
        for process in found[whose]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        if found[whose]:
            family = [process for processes in found.values() for process in processes]
            ending += found["sandbox"] if whose == "sandbox" else family
    return ending


def kill_until_dead(whose: str, containers: set[str]) -> None:
    """A call that comes before the last of them has ended may be killed, too."""
    assert psutil.wait_procs(kill_each(whose, containers), DEADLINE)[1] == []


async def ran_until(sandbox: Sandbox, do: Callable[[], object]) -> Outcome:
    """What becomes of code that runs while that is done."""
    async with in_mid_call(sandbox) as outcomes:
        await anyio.to_thread.run_sync(do)
    return outcomes[0]


async def test_its_processes_are_killed_while_code_runs(
    sandbox_image: tuple[str, str], tmp_path: Path
) -> None:
    def kill_now(whose: str) -> None:
        kill_until_dead(whose, containers() - before)

    before = await made()
    async with serving(tmp_path, sandbox_image[1]) as sandbox:
        for whose in ("sandbox", "maker", "porter"):
            outcome = await ran_until(sandbox, partial(kill_now, whose))
            assert outcome.status == "killed", (whose, outcome)
            assert (await sandbox.run(Call("6 * 7"))).result == "42", whose


async def test_its_processes_are_killed_while_they_wait(
    sandbox_image: tuple[str, str], tmp_path: Path
) -> None:
    before = await made()
    async with serving(tmp_path, sandbox_image[1]) as sandbox:
        pool = sandbox._pool
        assert pool is not None
        for whose in ("sandbox", "maker", "porter"):
            await until(lambda: pool.ready == 1)
            await anyio.to_thread.run_sync(kill_until_dead, whose, await made() - before)
            assert (await sandbox.run(Call("6 * 7"))).result == "42", whose


async def test_a_container_that_stands_still_is_given_up(
    sandbox_image: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "_CLEAR_SECONDS", 1.0)
    before = await made()

    def suspend() -> None:
        for container in containers() - before:
            for processes in inside(container).values():
                for process in processes:
                    with suppress(psutil.NoSuchProcess):
                        process.suspend()

    async with serving(tmp_path, sandbox_image[1], warm=0) as sandbox:
        began = anyio.Event()

        async def heard(stream: str, text: str) -> None:
            began.set()

        async with anyio.create_task_group() as tasks:
            code = "print('here', flush=True)\nimport time\ntime.sleep(600)"
            tasks.start_soon(sandbox.run, Call(code, timeout=300.0, listener=heard))
            await until(began.is_set)
            await anyio.to_thread.run_sync(suspend)
            tasks.cancel_scope.cancel()
        assert (await sandbox.run(Call("6 * 7"))).result == "42"


async def test_200_calls_at_16_in_flight(sandbox_image: tuple[str, str], tmp_path: Path) -> None:
    results: list[Outcome] = []
    turns = anyio.CapacityLimiter(16)
    before = await made()

    async def one(n: int, sandbox: Sandbox) -> None:
        async with turns:
            results.append(await sandbox.run(Call(f"open('x', 'x').write('{n}')\n{n}")))

    async with serving(tmp_path, sandbox_image[1], at_once=4) as sandbox:
        async with anyio.create_task_group() as tasks:
            for n in range(200):
                tasks.start_soon(one, n, sandbox)
        assert len(await made() - before) <= 4 + 1  # and one that waits
    assert {outcome.status for outcome in results} == {"ok"}
    assert sorted(int(outcome.result or "") for outcome in results) == list(range(200))


async def test_containers_that_nobody_needs_go(
    sandbox_image: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await made()
    async with serving(tmp_path, sandbox_image[1], at_once=3) as sandbox:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(sandbox.run, Call("import time\ntime.sleep(1)"))
        assert len(await made() - before) >= 2
        monkeypatch.setattr(kept, "_IDLE_SECONDS", 0.0)
        with anyio.fail_after(DEADLINE):
            while len(await made() - before) > 1:  # noqa: ASYNC110
                await anyio.sleep(0.1)
        assert (await sandbox.run(Call("6 * 7"))).result == "42"


async def test_a_server_that_is_killed_takes_its_containers_along(
    sandbox_image: tuple[str, str], tmp_path: Path
) -> None:
    host, image = sandbox_image
    env = {
        "DOCKER_HOST": host,
        "MCPCP_DATA_DIR": str(tmp_path),
        "SANDBOX_BACKEND": "docker",
        "SANDBOX_IMAGE": image,
        "SANDBOX_IMPORTS": "",
    }
    with running(ROOT / "servers" / "python_code.py", env=env) as script:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call_in_vain, script.url)
            await until(lambda: bool(survivors()))
            script.kill()
    await until(lambda: not survivors())
    pid = script.process.pid
    with DockerEngine(host).client() as client:
        await until(lambda: not containers_of(client, pid, all=False))
        assert containers_of(client, pid, all=True)
        ownership.sweep(client)  # as the next server does that starts
        assert not containers_of(client, pid, all=True)


async def call_in_vain(url: str) -> None:
    """The server is killed before it answers."""
    with suppress(Exception):
        async with connected(url, "http", "auto") as client:
            code = TOOLS + "time.sleep(600)"
            await client.call_tool("run_python_code", {"code": code, "timeout": 290.0})


def containers_of(client: DockerClient, pid: int, *, all: bool) -> list[str]:
    found = client.api.containers(all=all, filters={"label": ownership.MAKER})
    return [c["Id"] for c in found if f"/{pid}/" in c["Labels"][ownership.MAKER]]


# -- where none can be kept -----------------------------------------------------------------------


async def test_an_engine_that_lets_nobody_mount_gets_a_container_for_each_call(
    sandbox_image: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seccomp, "MAKES_SANDBOXES", frozenset({"unshare"}))
    async with serving(tmp_path, sandbox_image[1]) as sandbox:
        outcome = await sandbox.run(Call("6 * 7"))
        assert outcome.isolation["container"] == "one for each call"
        first, second = await anyio.to_thread.run_sync(
            lambda: list(engines.find([sandbox_image[1]]))
        )
        assert "mount proc at /proc" in " ".join(await weaknesses(first))
        assert which(first) == "docker (kept, for one call at a time)"
        assert which(second) == "docker (one for each call)"
        await first.close()


async def test_an_engine_that_does_not_see_the_packages_runs_code_without(
    sandbox_image: tuple[str, str], tmp_path: Path
) -> None:
    away = tmp_path / "nowhere"
    backend = next(engines.find([sandbox_image[1]], packages=away))
    runner = Runner(backend)
    try:
        assert backend.late_packages
        assert (await runner.run("6 * 7", LIMITS)).result == "42"
        assert not backend.late_packages
        with pytest.raises(SandboxBroken, match="share it with the engine"):
            await runner.run("1", LIMITS, packages=(away / "one",))
    finally:
        await backend.close()


async def test_a_package_that_the_engine_does_not_see_is_told(
    sandbox_image: tuple[str, str], tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)
    backend = next(engines.find([sandbox_image[1]], packages=tmp_path))
    try:
        with pytest.raises(SandboxBroken, match="No such file"):
            await Runner(backend).run("1", LIMITS, packages=(tmp_path / "one",))
        assert (await Runner(backend).run("6 * 7", LIMITS)).result == "42"
    finally:
        await backend.close()
