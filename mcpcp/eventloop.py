"""The event loop that our long-lived processes run in."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Final

GARBAGE_AFTER: Final = 10_000
"""Objects made, and not freed by themselves, after which cycles among them are looked for."""

_KEPT: Final = 4 * 1024 * 1024
"""Half of the free bytes that the process keeps for later, where the C library is glibc."""


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run an event loop, the fast one where there is one."""
    factory = None
    if sys.platform != "win32":
        with contextlib.suppress(ImportError):
            import uvloop

            factory = uvloop.new_event_loop
    # What is imported stays; looking through it again and again was 8 % of a call's CPU.
    gc.freeze()
    gc.set_threshold(GARBAGE_AFTER)
    _keep_freed_memory()
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


def _keep_freed_memory() -> None:
    """Have large results find their memory where the ones before them left it.

    glibc gives memory back to the system as soon as 128 kB of it lie free at its heap's end, and
    each page that it takes again costs a fault. From then on it keeps twice the size of the largest
    piece that it mapped by itself and unmapped again: here is one, of which nothing is used.
    """
    bytes(_KEPT)
