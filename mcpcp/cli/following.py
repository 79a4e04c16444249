"""A log file's last lines and the ones to come, across its rotation."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
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


def follow_file(path: Path, *, from_start: bool = False) -> Iterator[str]:
    """Lines that are written from now on, for ever; a file that was replaced is opened anew."""
    file = _open(path, at_end=not from_start)
    rest = ""
    while True:
        piece = file.readline() if file else ""
        if piece.endswith("\n"):
            yield rest + piece[:-1]
            rest = ""
        elif piece:
            rest += piece
        elif file is None or _is_replaced(file, path):
            if file:
                file.close()
            file = _open(path, at_end=False)
            if file is None:
                time.sleep(LOOK)
        else:
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
