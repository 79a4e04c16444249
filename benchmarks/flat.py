"""Whether a gateway's memory stays flat: over many calls, then over many sessions."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

from benchmarks import load, targets
from benchmarks.targets import Target

CALLS: Final = 100_000
SESSIONS: Final = 1_000
STEPS: Final = 10
IN_FLIGHT: Final = 32
_ARGUMENTS: Final = b'{"text":"%b"}' % (b"a" * 100)
_WARM: Final = 20_000
"""Calls before the first look: until then caches fill and the allocator finds its size."""


async def measure(keys: Path) -> str:
    """A gateway's memory in MB at every tenth of the calls, and of the sessions."""
    with targets.open_servers(1, 3) as servers:
        async with targets.mcpcp(keys, servers, "http", "http") as target:
            await _calls(target, _WARM)
            calls = [each async for each in _looks(target, lambda: _calls(target, CALLS // STEPS))]
            many = SESSIONS // STEPS
            sessions = [each async for each in _looks(target, lambda: _sessions(target, many))]
    return f"{_line(f'{CALLS} calls', calls)}\n{_line(f'{SESSIONS} sessions', sessions)}"


async def _looks(target: Target, work: Callable[[], Awaitable[None]]) -> AsyncIterator[float]:
    """The memory before the work and after each repetition."""
    yield target.memory()
    for _ in range(STEPS):
        await work()
        yield target.memory()


async def _calls(target: Target, count: int) -> None:
    """`count` calls, IN_FLIGHT at a time."""
    params = b'{"name":"%b","arguments":%b}' % (target.tool("echo"), _ARGUMENTS)
    left = count

    async def keep_calling() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await target.client.request("tools/call", params)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(IN_FLIGHT):
            tasks.create_task(keep_calling())
    target.calls += count


async def _sessions(target: Target, count: int) -> None:
    """`count` sessions, each opened, used for one call and closed."""
    params = b'{"name":"%b","arguments":%b}' % (target.tool("echo"), _ARGUMENTS)
    assert target.new_client is not None  # noqa: S101  a gateway over HTTP has clients to spare
    for _ in range(count):
        client: load.Client = target.new_client()
        await client.open()
        await client.request("tools/call", params)
        await client.close()
    target.calls += count


def _line(what: str, looks: list[float]) -> str:
    half = len(looks) // 2
    growth = statistics.mean(looks[-half:]) - statistics.mean(looks[:half])
    values = " ".join(f"{each:.1f}" for each in looks)
    return f"{what}: {values} MB; the second half is {growth:+.2f} MB above the first"
