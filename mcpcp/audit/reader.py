"""Reading the audit log's files, also while a gateway writes them and begins new ones.

Above: the command line. Below: `files` says which there are.
"""

from __future__ import annotations

import heapq
import json
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from mcpcp.audit.files import open_if_there, opened
from mcpcp.audit.reading import Record, when
from mcpcp.audit.verification import chains

LOOK: Final = 0.2
"""Seconds between two looks at logs that are followed: there is no portable way to be told."""

Meant = Callable[[Record], bool]


class LogReader:
    """The records of one gateway's log, each once and in its order, while it grows and rotates.

    Nothing stays open between two looks: on Windows a file that somebody reads can't be renamed.
    A line that is no record is left to `verify` to complain of.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._read: dict[tuple[int, int], int] = {}
        """How many bytes of each file, by device and inode, were read."""
        self._full = ""
        """The newest full file that was read, or need not be."""

    def fresh(self) -> Iterator[Record]:
        """Those since the last look; all, where there was none."""
        with opened(self._log) as files:
            for file in files.full:
                if file.name > self._full:
                    yield from self._rest_of_full(file)
                    self._full = file.name
            yield from self._rest_of(files.current)

    def newest(self, meant: Meant, count: int) -> list[Record]:
        """The last `count` that are meant; older files are read only where newer have too few.

        `fresh` goes on from here.
        """
        with opened(self._log) as files:
            found = [*filter(meant, self._rest_of(files.current))]
        for file in reversed(files.full):
            if len(found) >= count:
                break
            found = [*filter(meant, self._rest_of_full(file)), *found]
        self._full = files.full[-1].name if files.full else ""
        return found[-count:] if count > 0 else []

    def _rest_of_full(self, file: Path) -> Iterator[Record]:
        with open_if_there(file) as lines:
            yield from self._rest_of(lines)

    def _rest_of(self, file: BinaryIO | None) -> Iterator[Record]:
        if file is None:
            return
        status = os.fstat(file.fileno())
        known = (status.st_dev, status.st_ino)
        file.seek(self._read.get(known, 0))
        while (line := file.readline()).endswith(b"\n"):
            self._read[known] = file.tell()
            yield from _parsed(line)


def records(logs: Iterable[Path]) -> Iterator[Record]:
    """Every record of these gateways' logs, by time."""
    return heapq.merge(*(LogReader(log).fresh() for log in logs), key=when)


def newest(logs: Iterable[Path], meant: Meant, count: int) -> list[Record]:
    """The last `count` that are meant of these gateways' logs, by time."""
    return _newest([LogReader(log) for log in logs], meant, count)


def follow(first: Path, meant: Meant, count: int) -> Generator[Record, None, None]:
    """The last `count` that are meant, and then, without a gap, those to come, for ever.

    Of all gateways that write beside the `first` log, also of those that come later.
    """
    readers = {log: LogReader(log) for log in chains(first)}
    yield from _newest(readers.values(), meant, count)
    while True:
        for log in chains(first):
            readers.setdefault(log, LogReader(log))
        looks = [reader.fresh() for reader in readers.values()]
        yield from filter(meant, heapq.merge(*looks, key=when))
        time.sleep(LOOK)


def _newest(readers: Iterable[LogReader], meant: Meant, count: int) -> list[Record]:
    found = [record for reader in readers for record in reader.newest(meant, count)]
    return sorted(found, key=when)[-count:] if count > 0 else []


def _parsed(line: bytes) -> Iterator[Record]:
    try:
        record = json.loads(line)
    except ValueError:
        return
    if isinstance(record, dict):
        yield record
