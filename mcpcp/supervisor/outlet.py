"""Where a view writes: a terminal that may be stopped or hang up, a pipe that may break."""

from __future__ import annotations

import errno
import os
import select
import sys
import threading

WAIT = 0.1
"""Seconds of one wait for the reader."""
LAST_WAITS = 30
"""Waits in a row for a reader who takes nothing, before a closing view gives up; counted, since a
clock would count the time as well in which this process did not run."""


class Gone(Exception):
    """Nobody sees what is written; `terminal` where it was one that hung up."""

    def __init__(self, terminal: bool) -> None:
        super().__init__("the output is gone")
        self.terminal = terminal


class Outlet:
    """A descriptor to write to, without Python's buffers: those would block again at exit."""

    def __init__(self, descriptor: int, last_waits: int = LAST_WAITS) -> None:
        self._descriptor = descriptor
        self.last_waits = last_waits
        self.closing = threading.Event()
        self.offering = False
        """Whether there is something that the reader has not taken yet."""
        self.taken = 0
        """Bytes written so far."""

    def size(self) -> os.terminal_size:
        """Of the terminal behind it; 80 x 24 where there is none."""
        try:
            found = os.get_terminal_size(self._descriptor)
        except OSError:
            return os.terminal_size((80, 24))
        return os.terminal_size((found.columns or 80, found.lines or 24))

    def write(self, text: str) -> None:
        """All of `text`; once the view is closing, as long as the reader goes on taking it."""
        data = memoryview(text.encode("utf-8", "replace"))
        refused = 0
        self.offering = True
        while data and not (refused >= self.last_waits and self.closing.is_set()):
            if self._writable(WAIT):
                written = self._write(data[:4096])
                data, refused = data[written:], 0
                self.taken += written
            else:
                refused += 1
        self.offering = False

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
