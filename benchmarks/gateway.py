"""The gateway against the floor and against other gateways, in one run on this machine.

    python -m benchmarks.gateway                    # some minutes
    python -m benchmarks.gateway --quick            # one minute, rougher
    python -m benchmarks.gateway --rivals           # beside gateways from PyPI and npm
    python -m benchmarks.gateway --profile          # where the gateway's time goes
    python -m benchmarks.gateway --flat             # memory over many calls and sessions

Every gateway runs at once before the same echo servers, and rounds of calls go through each in
turn, direct ones among them: what the machine is busy with hits all alike. Added is what a call
takes longer than a direct call over HTTP in the same round. Quote medians, and ratios of one run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import uvloop

from benchmarks import flat, load, targets
from benchmarks.profiled import most_expensive
from benchmarks.rivals import RIVALS
from benchmarks.targets import Servers, Target
from tests.fleet import make_keys

IN_FLIGHT: Final = 32
BIG: Final = 100_000
SMALL_ARGUMENTS: Final = b'{"text":"%b"}' % (b"a" * 100)
BIG_ARGUMENTS: Final = b'{"n":%d}' % BIG
Opener = Callable[[Servers], contextlib.AbstractAsyncContextManager[Target]]


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    rounds: int = 8
    calls: int = 200
    seconds: float = 1.0
    lists: int = 60


QUICK: Final = Effort(rounds=4, calls=100, seconds=0.5, lists=30)


@dataclass
class Figures:
    """What was found for one target; ms, calls a second, MB, s."""

    small_added_p50: float = 0.0
    small_added_p99: float = 0.0
    big_p50: float = 0.0
    big_added_p50: float = 0.0
    per_second: float = 0.0
    cpu_ms: float = 0.0
    big_per_second: float = 0.0
    memory_idle: float = 0.0
    memory_after: float = 0.0
    start: float = 0.0
    list_300_p50: float = 0.0


@dataclass
class _Samples:
    small: list[list[float]] = field(default_factory=list)
    big: list[list[float]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    big_rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


async def sequential(target: Target, tool: str, arguments: bytes, calls: int) -> list[float]:
    """Milliseconds of each of `calls` calls, one after the other."""
    params = _params(target, tool, arguments)
    found = []
    for _ in range(calls):
        began = time.perf_counter()
        await target.client.request("tools/call", params)
        found.append((time.perf_counter() - began) * 1000)
    target.calls += calls
    return found


async def at_once(
    target: Target, tool: str, arguments: bytes, seconds: float
) -> tuple[float, float]:
    """Calls a second with IN_FLIGHT under way, and the target's processor time for one, in ms."""
    params = _params(target, tool, arguments)
    end = time.perf_counter() + seconds
    calls = 0

    async def keep_calling() -> None:
        nonlocal calls
        while time.perf_counter() < end:
            await target.client.request("tools/call", params)
            calls += 1

    cpu, began = target.cpu(), time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(IN_FLIGHT):
            tasks.create_task(keep_calling())
    target.calls += calls
    return calls / (time.perf_counter() - began), (target.cpu() - cpu) / calls * 1000


async def measure_calls(
    openers: Sequence[Opener], effort: Effort, found: dict[str, Figures]
) -> None:
    """Latency, throughput, processor time and memory, with one server of three tools."""
    with targets.open_servers(1, 3) as servers:
        async with contextlib.AsyncExitStack() as stack:
            direct = await stack.enter_async_context(targets.direct(servers))
            measured = await _open(stack, openers, servers, found)
            for target in measured:
                found[target.name].memory_idle = target.memory()
                await sequential(target, "echo", SMALL_ARGUMENTS, 50)
            samples = {target.name: _Samples() for target in [direct, *measured]}
            for _ in range(effort.rounds):
                for target in [direct, *measured]:
                    await _round(target, effort, samples[target.name])
            for target in measured:
                _conclude(found[target.name], samples[target.name], samples["direct"])
                found[target.name].memory_after = target.memory()


async def measure_lists(
    openers: Sequence[Opener], effort: Effort, found: dict[str, Figures]
) -> None:
    """tools/list of 300 tools, of three servers."""
    with targets.open_servers(3, 100) as servers:
        async with contextlib.AsyncExitStack() as stack:
            for target in await _open(stack, openers, servers, found):
                times = []
                for _ in range(effort.lists):
                    began = time.perf_counter()
                    await target.client.request("tools/list", b"{}")
                    times.append((time.perf_counter() - began) * 1000)
                found[target.name].list_300_p50 = statistics.median(times)


async def _open(
    stack: contextlib.AsyncExitStack,
    openers: Sequence[Opener],
    servers: Servers,
    found: dict[str, Figures],
) -> list[Target]:
    """Each target, up and ready; one that does not come up is named and left out."""
    opened = []
    for opener in openers:
        try:
            target = await stack.enter_async_context(opener(servers))
        except (TimeoutError, load.Failed, OSError) as error:
            print(f"left out, it does not start: {error}")
            continue
        figures = found.setdefault(target.name, Figures(start=target.started))
        figures.start = min(figures.start, target.started)
        opened.append(target)
    return opened


async def _round(target: Target, effort: Effort, samples: _Samples) -> None:
    calls, seconds = effort.calls, effort.seconds
    samples.small.append(await sequential(target, "echo", SMALL_ARGUMENTS, calls))
    samples.big.append(await sequential(target, "big", BIG_ARGUMENTS, calls // 2))
    rate, cpu = await at_once(target, "echo", SMALL_ARGUMENTS, seconds)
    samples.rates.append(rate)
    samples.cpu.append(cpu)
    samples.big_rates.append((await at_once(target, "big", BIG_ARGUMENTS, seconds / 2))[0])


def _conclude(figures: Figures, mine: _Samples, direct: _Samples) -> None:
    figures.small_added_p50 = _added(mine.small, direct.small, 0.5)
    figures.small_added_p99 = _added(mine.small, direct.small, 0.99)
    figures.big_p50 = statistics.median(_quantile(each, 0.5) for each in mine.big)
    figures.big_added_p50 = _added(mine.big, direct.big, 0.5)
    figures.per_second = statistics.median(mine.rates)
    figures.big_per_second = statistics.median(mine.big_rates)
    figures.cpu_ms = statistics.median(mine.cpu)


def _added(mine: list[list[float]], direct: list[list[float]], part: float) -> float:
    """The median over the rounds of what was added in each."""
    pairs = zip(mine, direct, strict=True)
    return statistics.median(_quantile(m, part) - _quantile(d, part) for m, d in pairs)


def _quantile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def _params(target: Target, tool: str, arguments: bytes) -> bytes:
    return b'{"name":"%b","arguments":%b}' % (target.tool(tool), arguments)


_COLUMNS: Final = (
    ("small_added_p50", "p50 added, ms", 3),
    ("small_added_p99", "p99 added, ms", 2),
    ("per_second", "calls/s at 32", 0),
    ("cpu_ms", "CPU a call, ms", 3),
    ("big_p50", "100 kB, ms", 3),
    ("big_added_p50", "100 kB added, ms", 3),
    ("big_per_second", "100 kB calls/s", 0),
    ("list_300_p50", "300 tools, ms", 2),
    ("memory_idle", "MB idle", 0),
    ("memory_after", "MB after", 0),
    ("start", "start, s", 2),
)


def table(found: dict[str, Figures]) -> str:
    """The figures in Markdown; in brackets, those of the floor times."""
    rows = [["", *(title for _, title, _ in _COLUMNS)]]
    for name, figures in found.items():
        row = [name]
        for key, _, digits in _COLUMNS:
            value, least = getattr(figures, key), getattr(found.get("floor"), key, 0.0)
            ratio = f" ({value / least:.2f})" if least and name != "floor" else ""
            row.append(f"{value:.{digits}f}{ratio}")
        rows.append(row)
    rows.insert(1, ["---", *("---:" for _ in _COLUMNS)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def our_openers(keys: Path) -> list[Opener]:
    """The floor and this gateway, in the transports that it serves."""
    return [
        targets.floor,
        lambda servers: targets.mcpcp(keys, servers, "http", "http"),
        lambda servers: targets.mcpcp(keys, servers, "http", "sse"),
        lambda servers: targets.mcpcp(keys, servers, "relay", "sse"),
        lambda servers: targets.mcpcp(keys, servers, "alone", "sse"),
    ]


def rival_openers() -> list[Opener]:
    """Those that can be installed here."""
    openers: list[Opener] = []
    for rival in RIVALS:
        if why := rival.install():
            print(f"left out, it can't be installed: {rival.name}: {why}")
        else:
            openers.append(partial(targets.rival, rival))
    return openers


async def compare(keys: Path, effort: Effort, *, rivals: bool) -> dict[str, Figures]:
    """Every target's figures."""
    openers = our_openers(keys) + (rival_openers() if rivals else [])
    found: dict[str, Figures] = {}
    await measure_calls(openers, effort, found)
    await measure_lists(openers, effort, found)
    return found


async def profile(keys: Path, seconds: float) -> str:
    """The gateway's most expensive functions, over HTTP with HTTP behind."""
    with tempfile.TemporaryDirectory() as folder, targets.open_servers(1, 3) as servers:
        file = Path(folder) / "profile"
        async with targets.mcpcp(keys, servers, "http", "http", profile=str(file)) as target:
            rate, _ = await at_once(target, "echo", SMALL_ARGUMENTS, seconds)
        return most_expensive(file, round(rate * seconds))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="The gateway against the floor and others.")
    parser.add_argument("--quick", action="store_true", help="rougher, in a minute")
    parser.add_argument("--rivals", action="store_true", help="other gateways too")
    parser.add_argument("--profile", action="store_true", help="where the gateway's time goes")
    parser.add_argument("--flat", action="store_true", help="memory over calls and sessions")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    effort = QUICK if options.quick else Effort()
    with (
        tempfile.TemporaryDirectory(prefix="mcpcp-keys-") as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        keys = make_keys(Path(folder))
        if options.profile:
            print(runner.run(profile(keys, 5.0)))
            return
        if options.flat:
            print(runner.run(flat.measure(keys)))
            return
        load_before = os.getloadavg()[0]
        found = runner.run(compare(keys, effort, rivals=options.rivals))
    print(table(found))
    print(f"load before and after: {load_before:.1f}, {os.getloadavg()[0]:.1f}")
    if options.json:
        figures = {name: dataclasses.asdict(each) for name, each in found.items()}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
