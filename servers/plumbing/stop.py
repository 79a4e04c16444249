"""One event for SIGTERM, SIGINT and Windows' SIGBREAK; a second Ctrl+C ends the process at once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import anyio

if sys.platform == "win32":
    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGBREAK)
else:
    SIGNALS = (signal.SIGINT, signal.SIGTERM)

_INTERRUPTED = 130


@contextmanager
def stop_event() -> Iterator[anyio.Event]:
    """An event that is set when the process is asked to stop; needs the main thread."""
    event = anyio.Event()
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        if event.is_set() and number == signal.SIGINT:
            os._exit(_INTERRUPTED)
        event.set()

    # signal.signal and not the loop's own: Windows' loops have none
    before = {
        number: signal.signal(number, lambda n, _frame: loop.call_soon_threadsafe(stop, n))
        for number in SIGNALS
    }
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
