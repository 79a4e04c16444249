"""An event loop whose clock jumps ahead whenever nothing is left to do before the next timer.

An hour takes seconds, on real code and real sockets: only the time is injected. Whoever speaks to
whom must be in this loop, for a clock that jumps waits for nobody outside.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

LOOK = 0.005
"""Seconds for which the kernel is asked whether there is not something to do after all."""
T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    jumps = False
    skipped = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if not self.jumps or timeout is None or timeout <= LOOK:
            return super().select(timeout)
        found = super().select(LOOK)
        if not found:
            self.skipped += timeout - LOOK
        return found


class FastLoop(asyncio.SelectorEventLoop):
    """The loop; `time` is what its timers see."""

    def __init__(self) -> None:
        self.selector = _Selector()
        super().__init__(self.selector)

    def time(self) -> float:
        return super().time() + self.selector.skipped


@contextlib.contextmanager
def jumping() -> Iterator[None]:
    """Inside, the clock jumps; what has to do with connecting is better done outside."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, FastLoop)
    loop.selector.jumps = True
    try:
        yield
    finally:
        loop.selector.jumps = False


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end on a clock of its own."""
    with asyncio.Runner(loop_factory=FastLoop) as runner:
        return runner.run(work)
