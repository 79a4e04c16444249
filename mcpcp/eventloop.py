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
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
