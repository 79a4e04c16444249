"""Deadlines at the end of a process that count only the time in which it could have done something.

A process that stood still, or got no processor, has not used up what it gave to others: its waits
are turns of its event loop, each of which does what there is to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import anyio

TICK = 0.1
"""Seconds; a longer standstill counts as one."""

_TURN = 0.001
_QUIET_TURNS = 50
_MOST_TURNS = 1000


def ticks(seconds: float) -> Iterator[float]:
    """What to wait each time, so that it is `seconds` together."""
    for _ in range(max(1, round(seconds / TICK))):
        yield TICK


async def settled(busy: Callable[[], bool] = lambda: False) -> None:
    """For the answer of a call that just ended to pass through the SDK's streams to the wire.

    `busy`: whether something that carries it is at work outside the loop.
    """
    quiet = 0
    for _ in range(_MOST_TURNS):
        await anyio.sleep(_TURN)
        quiet = 0 if busy() else quiet + 1
        if quiet == _QUIET_TURNS:
            return
