"""How long code takes in a sandbox, beside a plain interpreter in the same run.

    python -m benchmarks.sandbox              bubblewrap
    python -m benchmarks.sandbox --docker     the Docker backend, with its image in the engine

What an agent waits for is measured at the door, `Sandbox.run`: the HTTP around it is the gateway's
benchmark. Exits with 1 where a figure is over its bound.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import psutil

from servers.docker_policy import ownership
from servers.docker_policy.engine import Engine
from servers.sandboxing import cgroup
from servers.sandboxing.backend import Backend, run_once
from servers.sandboxing.bubblewrap import Bubblewrap, find_bwrap, interpreters
from servers.sandboxing.call import Call
from servers.sandboxing.candidates import candidates
from servers.sandboxing.conversation import Job
from servers.sandboxing.libraries import libraries
from servers.sandboxing.outcome import Limits
from servers.sandboxing.sandbox import Sandbox
from servers.sandboxing.settings import Settings

HELLO = "print('hello')"
NUMPY = "import numpy\nprint(numpy.arange(10).sum())"
_SUSTAINED_SECONDS = 8.0
_CALLERS = 4
_PAUSE = 0.05


@dataclass(frozen=True, slots=True)
class Rhythm:
    """Calls that find the pool filled; `fill` and `pause` are seconds for it to fill,
    and for what is more than the pool to go."""

    calls: int
    pause: float
    fill: float


_RHYTHMS = {"bubblewrap": Rhythm(60, _PAUSE, 1.0), "docker": Rhythm(60, _PAUSE, 26.0)}
_COLD_STARTS = 5


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value in its unit, and the bound that it must not pass."""

    what: str
    value: float
    unit: str
    bound: float | None = None
    at_least: bool = False

    @property
    def good(self) -> bool:
        """Whether it keeps its bound."""
        if self.bound is None:
            return True
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def __str__(self) -> str:
        sign = "at least" if self.at_least else "at most"
        bound = "" if self.bound is None else f"{sign} {self.bound:.1f}"
        mark = "" if self.good else "OVER"
        return f"{self.what:44} {self.value:8.1f} {self.unit:8} {bound:16} {mark}"


async def timed(do: Callable[[], Awaitable[object]], times: int, pause: float = _PAUSE) -> float:
    """The median in milliseconds of calls with a pause between them, as an agent makes them."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        await do()
        took.append((time.perf_counter() - began) * 1000)
        await anyio.sleep(pause)
    return statistics.median(took)


async def plain(code: str) -> float:
    """The same by `python -c`, of the interpreter that the sandbox has."""

    async def started() -> None:
        await anyio.run_process([sys.executable, "-c", code])

    return await timed(started, 20)


async def once(sandbox: Sandbox, code: str) -> None:
    """A call that has to end well."""
    outcome = await sandbox.run(Call(code))
    if outcome.status != "ok":
        raise SystemExit(f"{outcome.status}: {outcome.stderr}")


async def sustained(sandbox: Sandbox) -> float:
    """Calls a second that end well when each of some callers begins one as its last one ended."""
    done = 0
    began = time.perf_counter()

    async def call_on_and_on() -> None:
        nonlocal done
        while time.perf_counter() - began < _SUSTAINED_SECONDS:
            await once(sandbox, HELLO)
            done += 1

    async with anyio.create_task_group() as tasks:
        for _ in range(_CALLERS):
            tasks.start_soon(call_on_and_on)
    return done / (time.perf_counter() - began)


async def cold(make: Callable[[], Iterator[Backend]]) -> float:
    """Milliseconds from nothing at all, maker and all, to the answer."""
    took = []
    for backend in make():
        began = time.perf_counter()
        await run_once(backend, Job(HELLO, Limits()))
        took.append((time.perf_counter() - began) * 1000)
        await backend.close()
    return statistics.median(took)


def idle_mb(backend: str) -> float:
    """What the pool's processes take, shared pages counted once."""
    ours = psutil.Process().children(recursive=True) if backend == "bubblewrap" else contained()
    return sum(p.memory_full_info().pss for p in ours) / 1e6


def contained() -> list[psutil.Process]:
    """What runs in the containers that this process made, and the shim of each."""
    engine = Engine()
    client = engine.client()
    pids = [client.api.inspect_container(c)["State"]["Pid"] for c in ownership.running(client)]
    engine.forget()
    shims = [shim for pid in pids if (shim := psutil.Process(pid).parent()) is not None]
    return [process for shim in shims for process in (shim, *shim.children(recursive=True))]


def bubblewraps(imports: tuple[str, ...]) -> Iterator[Bubblewrap]:
    """Fresh ones for cold starts."""
    for _ in range(_COLD_STARTS):
        python = next(interpreters(libraries=libraries()))
        yield Bubblewrap(find_bwrap() or "", python, cgroup.find(), imports=imports)


def containers(settings: Settings) -> Iterator[Backend]:
    """The same: each time the best that the engine offers."""
    for _ in range(_COLD_STARTS):
        yield next(candidates(settings))


async def measure(settings: Settings) -> list[Figure]:
    """Everything, in the order of the issue that asked for it."""
    rhythm = _RHYTHMS[settings.backend]
    sandbox = Sandbox(settings)
    async with sandbox.ready():
        await once(sandbox, HELLO)
        await anyio.sleep(rhythm.fill)
        idle = idle_mb(settings.backend)
        start, start_numpy = await plain("print('hello')"), await plain(NUMPY)
        hello = await timed(lambda: once(sandbox, HELLO), rhythm.calls, rhythm.pause)
        numpy = await timed(lambda: once(sandbox, NUMPY), rhythm.calls, rhythm.pause)
        rate = await sustained(sandbox)
    figures = [
        Figure("python -c, print('hello'), p50", start, "ms"),
        Figure("python -c, with numpy, p50", start_numpy, "ms"),
        Figure("warm, print('hello'), p50", hello, "ms", min(15.0, start)),
        Figure("warm, numpy imported in advance, p50", numpy, "ms", 15.0),
        Figure(f"sustained, {_CALLERS} callers", rate, "a second", 20.0, at_least=True),
        Figure("the idle pool", idle, "MB", 64.0),
    ]
    if settings.backend == "bubblewrap":
        took = await cold(lambda: bubblewraps(settings.imports))
        figures.insert(5, Figure("cold, maker and imports included", took, "ms", 400.0))
    else:
        took = await cold(lambda: containers(settings))
        figures.insert(5, Figure("cold", took, "ms", 400.0))
    return figures


def main() -> None:
    """Print the table; exit with 1 where a bound is passed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--docker", action="store_true")
    flags = parser.parse_args()
    if importlib.util.find_spec("numpy") is None:
        parser.exit(2, "numpy is missing: pip install -e '.[sandbox]'\n")
    logging.disable()
    folder = Path(tempfile.mkdtemp(prefix="mcpcp-benchmark-"))
    try:
        usual = Settings(sessions=folder)
        figures = anyio.run(
            measure, replace(usual, backend="docker" if flags.docker else "bubblewrap")
        )
    finally:
        shutil.rmtree(folder)
    for figure in figures:
        print(figure)
    sys.exit(0 if all(figure.good for figure in figures) else 1)


if __name__ == "__main__":
    main()
