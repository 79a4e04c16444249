"""A log file's last lines and the ones to come, across its rotation."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import IO

LOOK = 0.2
"""Seconds between two looks at a file: there is no portable way to be told."""


def last_lines(path: Path, count: int) -> list[str]:
    """The last `count` lines, reaching into the rotated file where the new one is short."""
    lines: deque[str] = deque(maxlen=max(0, count))
    for part in (_rotated(path), path):
        with _open(part) or nullcontext() as file:
            lines.extend(line.rstrip("\n") for line in file or ())
    return list(lines)


def follow_file(path: Path, count: int | None = None) -> Generator[str, None, None]:
    """The last `count` lines (None: all of the file), and then, without a gap, those to come.

    A file that was replaced is opened anew.
    """
    shown = None if count is None else deque(last_lines(_rotated(path), count), count)
    while True:
        with _open(path) or nullcontext() as file:
            if file is not None:
                yield from _lines(file, path, shown)
                shown = None
        time.sleep(LOOK)


def _rotated(path: Path) -> Path:
    return path.with_name(path.name + ".1")


def _lines(file: IO[str], path: Path, shown: deque[str] | None) -> Iterator[str]:
    """The file's whole lines, until another one has its place and this one is read to its end.

    Of what is there at first, as much as `shown` holds.
    """
    rest = ""
    while True:
        replaced = _is_replaced(file, path)  # looked at first: what it got before is read below
        *lines, rest = (rest + file.read()).split("\n")
        if shown is not None:
            shown.extend(lines)
            lines, shown = [*shown], None
        yield from lines
        if replaced:
            return
        time.sleep(LOOK)


def _open(path: Path) -> IO[str] | None:
    try:
        return path.open(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _is_replaced(file: IO[str], path: Path) -> bool:
    try:
        now = path.stat()
    except FileNotFoundError:
        return False
    then = os.fstat(file.fileno())
    return (now.st_dev, now.st_ino) != (then.st_dev, then.st_ino) or now.st_size < file.tell()
