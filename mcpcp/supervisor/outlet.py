"""Where a view writes: a terminal that may be stopped or hang up, a pipe that may break."""

from __future__ import annotations

import errno
import os
import select
import sys
import threading
import time

LAST_WORDS = 1.0
"""Seconds that a closing view may take to write what is left."""


class Gone(Exception):
    """Nobody sees what is written; `terminal` where it was one that hung up."""

    def __init__(self, terminal: bool) -> None:
        super().__init__("the output is gone")
        self.terminal = terminal


class Outlet:
    """A descriptor to write to, without Python's buffers: those would block again at exit."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.closing = threading.Event()

    def size(self) -> os.terminal_size:
        """Of the terminal behind it; 80 x 24 where there is none."""
        try:
            found = os.get_terminal_size(self._descriptor)
        except OSError:
            return os.terminal_size((80, 24))
        return os.terminal_size((found.columns or 80, found.lines or 24))

    def write(self, text: str) -> None:
        """All of `text`, or what fits until the deadline that runs once the view is closing."""
        data = memoryview(text.encode("utf-8", "replace"))
        deadline: float | None = None
        while data:
            if self.closing.is_set():
                deadline = deadline or time.monotonic() + LAST_WORDS
                if time.monotonic() > deadline:
                    return
            if self._writable(0.1):
                data = data[self._write(data[:4096]) :]

    def _writable(self, seconds: float) -> bool:
        if sys.platform == "win32":
            return True
        try:
            return bool(select.select((), (self._descriptor,), (), seconds)[1])
        except (OSError, ValueError):
            return True  # the write will say why

    def _write(self, data: memoryview) -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise Gone(terminal=error.errno == errno.EIO) from error
