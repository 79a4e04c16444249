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
    rotated, file = _open_pair(path)
    lines = deque(rotated, max(0, count))
    with file or nullcontext():
        lines.extend(line.rstrip("\n") for line in file or ())
    return list(lines)


def follow_file(path: Path, count: int) -> Generator[str, None, None]:
    """The last `count` lines, and then, without a gap, those to come.

    A file that was replaced is opened anew.
    """
    rotated, file = _open_pair(path)
    shown: deque[str] | None = deque(rotated, max(0, count))
    while True:
        with file or nullcontext():
            if file is not None:
                yield from _lines(file, path, shown)
                shown = None
        time.sleep(LOOK)
        file = open_log(path)


def _open_pair(path: Path) -> tuple[list[str], IO[str] | None]:
    """The rotated file's lines and the file that followed it, open: no third one between them."""
    while True:
        file = open_log(path)
        with open_log(path.with_name(path.name + ".1")) or nullcontext() as rotated:
            lines = [line.rstrip("\n") for line in rotated or ()]
        if file is None or _is_at(file, path):
            return lines, file
        file.close()


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


def open_log(path: Path) -> IO[str] | None:
    """The file as text; None where there is none just now, as in the midst of a rotation."""
    try:
        return path.open(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _is_replaced(file: IO[str], path: Path) -> bool:
    """Whether another file has its place, or it was cut."""
    now = _status(path)
    return now is not None and (not _is(file, now) or now.st_size < file.tell())


def _is_at(file: IO[str], path: Path) -> bool:
    now = _status(path)
    return now is not None and _is(file, now)


def _is(file: IO[str], status: os.stat_result) -> bool:
    return os.path.samestat(status, os.fstat(file.fileno()))


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None
