"""What the processes write: drained always, kept on disk up to a size, and a rate.

A child never waits for us, and a child that floods costs neither memory nor the event loop: what
comes faster than the rate is counted and dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

LARGEST: Final = 5 * 1024 * 1024
KEPT: Final = 3
RATE: Final = 4 * 1024 * 1024
BURST: Final = 16 * 1024 * 1024
PIPE_SIZE: Final = 1024 * 1024
DRAIN_PAUSE: Final = 0.002
LONGEST_LINE: Final = 8192
LINES_A_SECOND: Final = 500
REMEMBERED: Final = 20

_CONTROLS = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f]"
)
_ROUTINE = re.compile(r"\b(?:INFO|DEBUG)\b")
_QUIET = re.compile(r"\b(DEBUG|INFO)\b")  # at these levels, "error" is part of some name
_TELLING = re.compile(r"(error|exception|fatal|failed|cannot|can't|denied|refused)", re.IGNORECASE)


def plain_text(line: str) -> str:
    """`line` without colours and control characters."""
    return _CONTROLS.sub("", line).rstrip()


def telling_line(lines: Iterable[str]) -> str | None:
    """The line that says best why a process ended: the last about an error, else the last.

    What a logger marks as routine says nothing about that.
    """
    texts = (plain_text(line).strip() for line in lines)
    said = [text for text in texts if text and not _ROUTINE.search(text)]
    errors = [line for line in said if _TELLING.search(line) and not _QUIET.search(line)]
    chosen = errors[-1] if errors else said[-1] if said else None
    return None if chosen is None else chosen[:300]


class LogFile:
    """A file that moves to .1, .2 when it has grown to `largest` bytes; the oldest is dropped."""

    def __init__(self, path: Path, largest: int = LARGEST, kept: int = KEPT) -> None:
        self._path = path
        self._largest = largest
        self._kept = kept
        self._descriptor: int | None = None
        self._size = 0
        self._open()

    def write(self, data: bytes) -> int:
        """How many bytes are kept: fewer when the disk is full."""
        try:
            if self._size + len(data) > self._largest and self._size:
                self._rotate()
            written = os.write(self._open(), data)
        except OSError:
            return 0
        self._size += written
        return written

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _open(self) -> int:
        """The open file; opened anew where that failed after a rotation."""
        if self._descriptor is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            self._size = os.fstat(self._descriptor).st_size
        return self._descriptor

    def _rotate(self) -> None:
        self.close()
        names = [self._path, *(self._nth(n) for n in range(1, self._kept))]
        for older, newer in zip(reversed(names), reversed(names[:-1]), strict=False):
            with contextlib.suppress(FileNotFoundError):
                newer.replace(older)

    def _nth(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


class Allowance:
    """A token bucket: `take` says how much of what is asked for is within the rate."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._left = burst
        self._at = clock()

    def take(self, amount: int) -> int:
        """At most `amount`, which is then spent."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        granted = min(amount, int(self._left))
        self._left -= granted
        return granted


class LineSplitter:
    """Bytes in, whole lines out; one longer than LONGEST_LINE is cut into several."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """The lines that are complete now."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        while len(self._rest) > LONGEST_LINE:
            lines.append(self._rest[:LONGEST_LINE])
            self._rest = self._rest[LONGEST_LINE:]
        return [line[:LONGEST_LINE].decode("utf-8", "replace") for line in lines]

    def finish(self) -> list[str]:
        """What was left without a line end."""
        rest, self._rest = self._rest, b""
        return [rest.decode("utf-8", "replace")] if rest else []


class ProcessLog:
    """Everything that one process, over all its lives, writes: to its file, and to the view."""

    def __init__(self, name: str, path: Path, show: Callable[[str, str], None]) -> None:
        self.name = name
        self._file = LogFile(path)
        self._show = show
        self._lines = LineSplitter()
        self._bytes = Allowance(RATE, BURST, time.monotonic)
        self._shown = Allowance(LINES_A_SECOND, LINES_A_SECOND, time.monotonic)
        self._dropped = 0
        self._recent: deque[str] = deque(maxlen=REMEMBERED)
        self._readers: set[PipeReader] = set()

    def open(self) -> int:
        """A descriptor for a child's output; close it once the child has it."""
        self._recent.clear()
        read_end, write_end = os.pipe()
        self._readers.add(PipeReader(read_end, self._receive, self._readers.discard))
        return write_end

    def last_error(self) -> str | None:
        """What the process said last about its end."""
        for reader in [*self._readers]:
            reader.read_now()
        return telling_line([*self._recent, *self._lines.finish()])

    def note(self, text: str) -> None:
        """Write a line of our own."""
        self._receive(f"[mcpcp] {text}\n".encode())

    def close(self) -> None:
        """Stop reading and close the file."""
        for reader in [*self._readers]:
            reader.read_now()
            reader.close()
        self._tell_dropped()
        self._file.close()

    def _receive(self, data: bytes) -> bool:
        """Take what was read; True when it came faster than we keep."""
        granted = self._bytes.take(len(data))
        if granted < len(data):
            self._dropped += len(data)
            return True
        self._tell_dropped()
        self._keep(data)
        return False

    def _keep(self, data: bytes) -> None:
        self._dropped += len(data) - self._file.write(data)
        lines = self._lines.feed(data)
        self._recent.extend(lines)
        for line in lines[: self._shown.take(len(lines))]:
            self._show(self.name, line)

    def _tell_dropped(self) -> None:
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._keep(f"\n[mcpcp] {dropped} bytes dropped: faster than the log keeps\n".encode())


class ProcessLogs:
    """The logs of a fleet's processes, by name; `folder` says where one is begun."""

    def __init__(self, folder: Callable[[], Path], show: Callable[[str, str], None]) -> None:
        self._folder = folder
        self._show = show
        self._logs: dict[str, ProcessLog] = {}

    def of(self, name: str) -> ProcessLog:
        """The log of that process, begun where there was none."""
        if name not in self._logs:
            self._logs[name] = ProcessLog(name, self._folder() / f"{name}.log", self._show)
        return self._logs[name]

    def end(self, name: str) -> None:
        """Close the log of a process that is not coming back."""
        self._logs.pop(name).close()

    def close(self) -> None:
        """Close them all."""
        for log in self._logs.values():
            log.close()


class PipeReader:
    """Reads a pipe to its end in the event loop, a bounded piece a turn (on Windows, a thread).

    When `receive` says that it was too fast, the next piece waits a moment: a wide pipe meanwhile
    takes what the child writes.
    """

    def __init__(
        self,
        descriptor: int,
        receive: Callable[[bytes], bool],
        on_end: Callable[[PipeReader], None],
    ) -> None:
        self._descriptor = descriptor
        self._receive = receive
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._open = True
        self._paused: asyncio.TimerHandle | None = None
        if sys.platform == "win32":
            threading.Thread(target=self._read_in_thread, daemon=True).start()
        else:
            os.set_blocking(descriptor, False)
            _widen(descriptor)
            self._loop.add_reader(descriptor, self._read)

    def read_now(self) -> None:
        """Take what lies in the pipe already."""
        if sys.platform != "win32" and self._open:
            self._take(PIPE_SIZE)

    def close(self) -> None:
        """Stop reading."""
        if not self._open:
            return
        self._open = False
        if self._paused is not None:
            self._paused.cancel()
        if sys.platform != "win32":
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
        self._on_end(self)

    def _read(self) -> None:
        if self._take(65536) and self._open:
            self._loop.remove_reader(self._descriptor)
            self._paused = self._loop.call_later(DRAIN_PAUSE, self._resume)

    def _resume(self) -> None:
        self._paused = None
        if self._take(PIPE_SIZE) and self._open:
            self._paused = self._loop.call_later(DRAIN_PAUSE, self._resume)
        elif self._open:
            self._loop.add_reader(self._descriptor, self._read)

    def _take(self, most: int) -> bool:
        try:
            data = os.read(self._descriptor, most)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self.close()
            return False
        return self._receive(data)

    def _read_in_thread(self) -> None:
        while data := os.read(self._descriptor, 65536):
            self._loop.call_soon_threadsafe(self._receive, data)
        os.close(self._descriptor)
        self._loop.call_soon_threadsafe(self.close)


def _widen(descriptor: int) -> None:
    if sys.platform == "linux":
        import fcntl

        with contextlib.suppress(OSError):  # over the user's limit for pipes: it stays as it is
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
