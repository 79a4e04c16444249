"""Deadlines for others, which count only the time in which we could have heard them.

A process that stood still (it was stopped, its machine was suspended or had no time for it) finds
every deadline past when it goes on, and unread what came in the meantime.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

STANDSTILL: Final = 0.25
"""Seconds by which a timer is late where we stood still."""
MOST_MOVED: Final = 60.0
"""Seconds by which standstills move one deadline in all: who is always late must end, too."""


@contextlib.asynccontextmanager
async def patience(seconds: float) -> AsyncIterator[None]:
    """As `asyncio.timeout`; for as long as we stood still when it would have ended, it goes on."""
    loop = asyncio.get_running_loop()
    timer: asyncio.Handle
    due = loop.time() + seconds  # uvloop's timers know it only where it is not at once
    moved = 0.0

    def end() -> None:
        nonlocal timer, due, moved
        late = loop.time() - due
        more = min(late, MOST_MOVED - moved)
        if late > STANDSTILL and more > 0:
            moved += more
            due = loop.time() + more
            timer = loop.call_at(due, end)
        else:
            waiting.reschedule(loop.time())

    async with asyncio.timeout(None) as waiting:
        timer = loop.call_at(due, end)
        try:
            yield
        finally:
            timer.cancel()
