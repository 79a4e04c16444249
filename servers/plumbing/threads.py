"""Blocking work in a thread, on a machine that may have no thread left to give."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import anyio
import anyio.to_thread

T = TypeVar("T")


@contextmanager
def told_as_by_fork() -> Iterator[None]:
    """Raises BlockingIOError where Python can't start a thread: the same want as fork's EAGAIN."""
    try:
        yield
    except RuntimeError as e:
        if "can't start new thread" not in str(e):
            raise
        raise BlockingIOError(errno.EAGAIN, "the machine has no thread left for it") from e


async def in_thread(
    do: Callable[[], T], *, abandon: bool = False, limiter: anyio.CapacityLimiter | None = None
) -> T:
    """`do` in a worker thread, left to itself on cancelling if `abandon`; raises OSError too."""
    with told_as_by_fork():
        return await anyio.to_thread.run_sync(do, abandon_on_cancel=abandon, limiter=limiter)
