"""A terminal for tests: a real pseudo-terminal whose other end is read into a real screen."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import termios
import threading
import time
from collections.abc import Callable, Iterator

import pyte

PATIENCE = 100.0
"""Seconds for what takes a moment: the machine may be busy, or stand still for a while."""
BEGIN, END = b"\x1b[?2026h", b"\x1b[?2026l"
"""Around a frame that is shown at once, by terminals that know mode 2026; this is one."""


class Terminal:
    """Programs write to `descriptor`; `lines()` is what a person sees, `raw` all that was sent."""

    def __init__(self, columns: int, rows: int) -> None:
        self.raw = b""
        self._master, self.descriptor = pty.openpty()
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self._news = threading.Condition()
        self._unshown = b""
        self._hung_up, self._hang_up = os.pipe()
        self.resize(columns, rows)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def resize(self, columns: int, rows: int) -> None:
        """As when a person drags the window's corner."""
        with self._news:
            self._screen.resize(rows, columns)
            size = struct.pack("HHHH", rows, columns, 0, 0)
            fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, size)

    def type(self, text: bytes) -> None:
        """As a person at the keyboard."""
        os.write(self._master, text)

    def lines(self) -> list[str]:
        """The screen, without the blanks at the lines' ends."""
        with self._news:
            return [line.rstrip() for line in self._screen.display]

    def cells(self) -> list[list[tuple[str, str]]]:
        """The screen's lines as (character, style in rich's words)."""
        with self._news:
            return [
                [styled(self._screen.buffer[row][column]) for column in range(self._screen.columns)]
                for row in range(self._screen.lines)
            ]

    def wait_for(
        self, seen: str | Callable[[list[str]], bool], timeout: float = PATIENCE
    ) -> list[str]:
        """The screen as soon as it shows that text, or fits."""
        fits = (
            (lambda lines: any(seen in line for line in lines)) if isinstance(seen, str) else seen
        )
        deadline = time.monotonic() + timeout
        with self._news:
            while True:
                lines = [line.rstrip() for line in self._screen.display]
                if fits(lines):
                    return lines
                left = deadline - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"not shown in {timeout} s: {seen}\n" + "\n".join(lines))
                self._news.wait(left)

    def hang_up(self) -> None:
        """As when the window is closed; first the reader ends: the number gets another file."""
        os.close(self._hang_up)
        self._reader.join()
        for descriptor in (self._hung_up, self.descriptor, self._master):
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _read(self) -> None:
        while self._hung_up not in select.select([self._master, self._hung_up], [], [])[0]:
            try:
                data = os.read(self._master, 65536)
            except OSError:
                return
            with self._news:
                self.raw += data
                self._show(data)
                self._news.notify_all()

    def _show(self, data: bytes) -> None:
        """Draw what is to be seen now: of a frame that is not whole yet, nothing."""
        self._unshown += data
        begun = self._unshown.rfind(BEGIN)
        if begun <= self._unshown.rfind(END):  # what may become a beginning is none yet
            begun = self._unshown.rfind(BEGIN[:1], -len(BEGIN) + 1)
            begun = begun if BEGIN.startswith(self._unshown[begun:]) else -1
        whole = len(self._unshown) if begun < 0 else begun
        self._stream.feed(self._unshown[:whole])
        self._unshown = self._unshown[whole:]


def styled(char: pyte.screens.Char) -> tuple[str, str]:
    """A character and its style in rich's words; pyte does not know of faint ones."""
    colour = {"default": "", "brown": "yellow"}.get(char.fg, char.fg)
    return char.data, " ".join(filter(None, ("bold" if char.bold else "", colour)))


@contextlib.contextmanager
def terminal(columns: int = 100, rows: int = 30) -> Iterator[Terminal]:
    """A terminal that is hung up at the end."""
    opened = Terminal(columns, rows)
    try:
        yield opened
    finally:
        opened.hang_up()
