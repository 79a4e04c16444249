"""The pool under load and after mishaps: the next call works, and nothing is left over."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import anyio
import psutil
import pytest

from servers.sandboxing import cgroup
from servers.sandboxing.bubblewrap import Bubblewrap, NamespaceCell, interpreters
from servers.sandboxing.call import Call
from servers.sandboxing.makers import Lost, Maker, Sandboxed
from servers.sandboxing.outcome import Limits, Outcome
from servers.sandboxing.pool import Pool
from servers.sandboxing.sandbox import Sandbox
from servers.sandboxing.settings import Settings
from tests.servers.harness import until
from tests.servers.sandboxing.runner import Runner

pytestmark = [pytest.mark.anyio, pytest.mark.bwrap]

WARM = 3
ENDLESS = 300.0
"""Seconds for code that runs until it is ended: more than any test waits for that."""


def left_over(before: set[int]) -> list[object]:
    """Processes, control groups and mounts of ours."""
    found: list[object] = [
        process
        for process in psutil.Process().children(recursive=True)
        if process.pid not in before
    ]
    groups = cgroup.find()
    for parent in groups.parents.values() if groups else ():
        found += parent.glob(f"mcpcp-sandbox-{os.getpid()}-*")
    return found


@asynccontextmanager
async def serving(tmp_path: Path) -> AsyncIterator[tuple[Sandbox, Bubblewrap]]:
    """A sandbox of its own maker; at the end nothing of it may be there."""
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    groups_before = len(left_over(before))
    backend = Bubblewrap(shutil.which("bwrap") or "", next(interpreters()), cgroup.find())
    settings = Settings(sessions=tmp_path, warm=WARM, at_once=4, patience=ENDLESS)
    sandbox = Sandbox(settings, lambda _: iter([backend]))
    async with sandbox.ready():
        assert (await sandbox.run(Call("1 + 1"))).result == "2"
        yield sandbox, backend
    await until(lambda: len(left_over(before)) <= groups_before)
    mounts = Path("/proc/self/mounts").read_text()
    assert "/run/packages" not in mounts and "/opt/packages" not in mounts


def maker_of(backend: Bubblewrap) -> psutil.Process:
    """The outermost of its processes, with which all of them end."""
    assert backend._maker is not None
    return psutil.Process(backend._maker.pid)


def has_ended(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_ZOMBIE
    return True


def all_have_ended(processes: list[psutil.Process]) -> bool:
    return all(map(has_ended, processes))


def sandboxes_of(backend: Bubblewrap) -> list[psutil.Process]:
    """The first process of each: children of the maker, which is bubblewrap's only child."""
    [maker] = maker_of(backend).children()
    return maker.children()


def kill_all(processes: list[psutil.Process]) -> None:
    """Some may have ended: a sandbox in the making has a process that leaves for another one."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


async def test_200_calls_at_16_in_flight(bwrap: Runner, tmp_path: Path) -> None:
    results: list[Outcome] = []
    turns = anyio.CapacityLimiter(16)

    async def one(n: int, sandbox: Sandbox) -> None:
        async with turns:
            results.append(await sandbox.run(Call(f"open('x', 'x').write('{n}')\n{n}")))

    async with serving(tmp_path) as (sandbox, _), anyio.create_task_group() as tasks:
        for n in range(200):
            tasks.start_soon(one, n, sandbox)
    assert {outcome.status for outcome in results} == {"ok"}
    assert sorted(int(outcome.result or "") for outcome in results) == list(range(200))


async def test_the_pool_holds_what_it_may_and_no_more(bwrap: Runner) -> None:
    made: list[NamespaceCell] = []

    class Counting(Bubblewrap):
        async def make(self, limits: Limits, packages: Sequence[Path] = ()) -> NamespaceCell:
            cell = await super().make(limits, packages)
            made.append(cell)
            return cell

    backend = Counting(shutil.which("bwrap") or "", next(interpreters()), cgroup.find())
    pool = Pool(backend, Limits(), WARM)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pool.run)
        await until(lambda: pool.ready == WARM)
        cell = await pool.take()
        await cell.discard()
        await until(lambda: pool.ready == WARM)
        assert len(made) == WARM + 1
        tasks.cancel_scope.cancel()
    assert pool.ready == 0 and not any(cell.alive for cell in made if cell is not made[0])
    await backend.close()


async def test_sandboxes_that_were_killed_while_they_waited(bwrap: Runner, tmp_path: Path) -> None:
    async with serving(tmp_path) as (sandbox, backend):
        await until(lambda: len(sandboxes_of(backend)) >= WARM)
        kill_all(sandboxes_of(backend))
        assert (await sandbox.run(Call("6 * 7"))).result == "42"


async def test_a_sandbox_that_is_killed_while_it_runs(bwrap: Runner, tmp_path: Path) -> None:
    outcomes: list[Outcome] = []
    async with serving(tmp_path) as (sandbox, backend):
        started = anyio.Event()

        async def heard(stream: str, text: str) -> None:
            started.set()

        async def run() -> None:
            code = "print('here')\nimport time\ntime.sleep(600)"
            outcomes.append(await sandbox.run(Call(code, ENDLESS, listener=heard)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await until(started.is_set)
            kill_all(sandboxes_of(backend))
        assert [outcome.status for outcome in outcomes] == ["killed"]
        assert (await sandbox.run(Call("6 * 7"))).result == "42"


async def test_a_maker_that_is_killed(bwrap: Runner, tmp_path: Path) -> None:
    async with serving(tmp_path) as (sandbox, backend):
        for _ in range(2):
            maker = maker_of(backend)
            family = [maker, *maker.children(recursive=True)]
            maker.kill()
            # the kernel takes a moment for the last of them: a call that comes before is killed too
            await until(partial(all_have_ended, family))
            assert (await sandbox.run(Call("6 * 7"))).result == "42"


async def test_a_maker_that_is_killed_while_calls_run(bwrap: Runner, tmp_path: Path) -> None:
    outcomes: list[Outcome] = []
    async with serving(tmp_path) as (sandbox, backend):
        started = anyio.Event()

        async def heard(stream: str, text: str) -> None:
            started.set()

        async def run() -> None:
            code = "print('here')\nimport time\ntime.sleep(600)"
            outcomes.append(await sandbox.run(Call(code, ENDLESS, listener=heard)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await until(started.is_set)
            os.kill(maker_of(backend).pid, signal.SIGKILL)
        assert [outcome.status for outcome in outcomes] == ["killed"]
        assert (await sandbox.run(Call("6 * 7"))).result == "42"


async def test_a_sandbox_that_is_killed_in_the_making_takes_no_other_along(
    bwrap: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    real = Maker.make

    async def make(maker: Maker, mounts: Mapping[str, str]) -> Sandboxed:
        if not killed:
            killed.append(maker.pid)
            raise Lost("the sandbox ended before it was ready")
        return await real(maker, mounts)

    async with serving(tmp_path) as (sandbox, backend):
        maker = maker_of(backend)
        monkeypatch.setattr(Maker, "make", make)
        cell = await backend.make(Limits())
        await cell.discard()
        assert killed == [maker.pid] == [maker_of(backend).pid]
        assert (await sandbox.run(Call("6 * 7"))).result == "42"


async def test_sandboxes_that_used_up_what_they_may(bwrap: Runner, tmp_path: Path) -> None:
    greedy = (
        "for n in range(999): open(str(n), 'wb').write(bytes(1 << 20))",
        "import os\nfor n in range(999):\n if os.fork() == 0: __import__('time').sleep(60)",
        "x = [bytearray(b'x') * (16 << 20) for n in range(99)]",
    )
    async with serving(tmp_path) as (sandbox, _):
        async with anyio.create_task_group() as tasks:
            for code in greedy:
                tasks.start_soon(sandbox.run, Call(code))
        assert (await sandbox.run(Call("6 * 7"))).result == "42"


async def test_a_cancelled_call_ends_its_processes_at_once(bwrap: Runner, tmp_path: Path) -> None:
    async with serving(tmp_path) as (sandbox, _):
        started = anyio.Event()

        async def heard(stream: str, text: str) -> None:
            started.set()

        name = f"mcpcp{os.getpid()}"
        code = (
            f"import ctypes, os, time\nctypes.CDLL(None).prctl(15, b'{name}')\n"
            "for _ in range(3): os.fork()\nprint('here', flush=True)\ntime.sleep(600)"
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sandbox.run, Call(code, ENDLESS, listener=heard))
            await until(started.is_set)
            tasks.cancel_scope.cancel()
        await until(lambda: name not in [p.info["name"] for p in psutil.process_iter(["name"])])
