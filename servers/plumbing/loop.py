"""The event loop of every process here: uvloop where there is one."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any, Final, cast

GARBAGE_AFTER: Final = 10_000
"""Objects made, and not freed by themselves, after which cycles among them are looked for."""


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run it to its end, in a loop of its own."""
    gc.freeze()  # what is imported stays: to look through it again and again costs each call
    gc.set_threshold(GARBAGE_AFTER)
    with asyncio.Runner(loop_factory=_factory()) as runner:
        runner.run(main)


def _factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # Windows has none
        return None
    return cast("Callable[[], asyncio.AbstractEventLoop]", uvloop.new_event_loop)
