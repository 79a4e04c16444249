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
    for part in (path.with_name(path.name + ".1"), path):
        if part.exists():
            with part.open(encoding="utf-8", errors="replace") as file:
                lines.extend(line.rstrip("\n") for line in file)
    return list(lines)


def follow_file(path: Path, *, from_start: bool = False) -> Generator[str, None, None]:
    """Lines that are written from now on, for ever; a file that was replaced is opened anew."""
    at_end = not from_start
    while True:
        with _open(path, at_end) or nullcontext() as file:
            if file is not None:
                yield from _lines(file, path)
        at_end = False
        time.sleep(LOOK)


def _lines(file: IO[str], path: Path) -> Iterator[str]:
    """The file's whole lines, until another one has its place and this one is read to its end."""
    rest = ""
    while True:
        replaced = _is_replaced(file, path)  # looked at first: what it got before is read below
        while piece := file.readline():
            rest += piece
            if rest.endswith("\n"):
                yield rest[:-1]
                rest = ""
        if replaced:
            return
        time.sleep(LOOK)


def _open(path: Path, at_end: bool) -> IO[str] | None:
    try:
        file = path.open(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    if at_end:
        file.seek(0, os.SEEK_END)
    return file


def _is_replaced(file: IO[str], path: Path) -> bool:
    try:
        now = path.stat()
    except FileNotFoundError:
        return False
    then = os.fstat(file.fileno())
    return (now.st_dev, now.st_ino) != (then.st_dev, then.st_ino) or now.st_size < file.tell()
