"""An event loop whose clock jumps ahead whenever nothing is left to do before the next timer.

An hour takes seconds, on real code and real sockets: only the time is injected. While it jumps it
does nothing else: what this machine takes for its work counts for nothing. Whoever speaks to whom
must be in this loop, or in a thread of its executor, for a clock that jumps waits for nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar, TypeVarTuple, Unpack

LOOK = 0.005
"""Seconds for which the kernel is asked whether there is not something to do after all."""
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class _Selector(selectors.DefaultSelector):
    """`now` is the time while the clock jumps, `threads` how many of them work."""

    now: float | None = None
    threads = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.now is None or not timeout or timeout < 0:
            return super().select(timeout)
        found = super().select(LOOK)
        if not found and not self.threads:
            self.now += timeout
        return found


class FastLoop(asyncio.SelectorEventLoop):
    """The loop; `time` is what its timers see."""

    def __init__(self) -> None:
        self.selector = _Selector()
        self.skipped = 0.0
        super().__init__(self.selector)

    def time(self) -> float:
        now = self.selector.now
        return super().time() + self.skipped if now is None else now

    def jump(self) -> None:
        """From now on time passes only where there is nothing to do."""
        self.selector.now = self.time()

    def walk(self) -> None:
        """From now on it passes as it does outside, from where it is."""
        self.skipped = self.time() - super().time()
        self.selector.now = None

    def run_in_executor(
        self, executor: Any, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        work = super().run_in_executor(executor, func, *args)
        self.selector.threads += 1
        work.add_done_callback(self._worked)
        return work

    def _worked(self, _: asyncio.Future[Any]) -> None:
        self.selector.threads -= 1


@contextlib.contextmanager
def jumping() -> Iterator[None]:
    """Inside, the clock jumps; what has to do with connecting is better done outside."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, FastLoop)
    loop.jump()
    try:
        yield
    finally:
        loop.walk()


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end on a clock of its own."""
    with asyncio.Runner(loop_factory=FastLoop) as runner:
        return runner.run(work)
