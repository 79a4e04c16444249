"""Which files a log consists of: the full ones, numbered, and the one that is written now."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True, slots=True)
class LogFiles:
    """A log's files at one moment: the full ones, the oldest first, and the one after them, open.

    None where there is no such file just now.
    """

    full: list[Path]
    current: BinaryIO | None


@contextmanager
def opened(path: Path) -> Iterator[LogFiles]:
    """The files of the log at `path`, which a gateway may be writing.

    All of one moment: of a list and a file that is opened later, both or neither may have what has
    become full in between.
    """
    while True:
        full = segments(path)
        with open_if_there(path) as current:
            if segments(path) == full:
                yield LogFiles(full, current)
                return


def open_if_there(file: Path) -> BinaryIO | nullcontext[None]:
    """The file, or None, as a context."""
    try:
        return file.open("rb")
    except FileNotFoundError:
        return nullcontext()


def segments(path: Path) -> list[Path]:
    """The files that were full before `path`, the oldest first."""
    numbered = path.parent.glob(f"{path.stem}.[0-9]*.jsonl")
    return sorted(p for p in numbered if p.name[len(path.stem) + 1 : -6].isdecimal())


def next_segment(path: Path) -> Path:
    """The name that the current file gets when a new one is begun."""
    earlier = segments(path)
    number = int(earlier[-1].name[len(path.stem) + 1 : -6]) + 1 if earlier else 1
    return path.with_name(f"{path.stem}.{number:06d}.jsonl")
