"""The journal: events that were accepted, in the order in which they go to the backend.

A folder holds

    events.jsonl      a header line with the journal's id, then one event a line; only appended to
    delivered         "ID OFFSET": up to where in the journal of that id everything is settled
    refused.jsonl     events that the backend refused for good, each with its reason
    damaged.jsonl     lines that could not be read back
    append.lock       held while the journal is written; deliver.lock by the process that delivers

An event is on disk before `append` returns. `delivered` is written without waiting for the disk:
what a power failure takes from it is sent twice, never lost. Several processes may append; one
delivers.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import IO, Any, Literal

from servers.battle_log.locks import locked, try_lock

COMPACT_BYTES = 1 << 20
"""A journal that is settled to its end and larger than this is replaced by an empty one."""

_BATCH_BYTES = 1 << 20
_HEADER_BYTES = 256


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in the journal of one id; places of different journals are not ordered."""

    journal: str
    offset: int


@dataclass(frozen=True, slots=True)
class Event:
    """What to post for one battle; `event_id` lets the backend tell a repeat."""

    event_id: str
    battle_id: str
    body: Mapping[str, Any]

    def to_line(self) -> bytes:
        """One line of the journal; ValueError where the body is no JSON."""
        record = {"event_id": self.event_id, "battle_id": self.battle_id, "body": self.body}
        return json.dumps(record, allow_nan=False).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Event:
        """The reverse of `to_line`; ValueError where the line is damaged."""
        try:
            record = json.loads(line)
            return cls(str(record["event_id"]), str(record["battle_id"]), dict(record["body"]))
        except (KeyError, TypeError, ValueError) as e:
            raise ValueError("not an event") from e


@dataclass(frozen=True, slots=True)
class Entry:
    """An event, or the bytes of a damaged line, and the position behind it."""

    event: Event | bytes
    end: Position


class Journal:
    """The files of one folder. Its methods block on the disk and raise OSError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._events = folder / "events.jsonl"
        self._delivered = folder / "delivered"
        self._refused = folder / "refused.jsonl"
        self._damaged = folder / "damaged.jsonl"

    def append(self, event: Event) -> Position:
        """Write the event to disk; when this returns, no crash loses it. The position behind it."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with locked(self.folder / "append.lock"):
            if not self._events.exists():
                self._begin()
            with _raw(self._events, "r+b") as file:
                end = _cut_torn_tail(file)
                _write_whole(file, event.to_line())
                return Position(_beginning(file).journal, end + len(event.to_line()))

    def settled(self) -> Position:
        """Up to where everything is settled; the journal's beginning where that is not known."""
        with _raw(self._events, "rb") as file:
            beginning = _beginning(file)
            try:
                word, number = self._delivered.read_text().split()
                known = Position(word, int(number))
            except (OSError, ValueError):
                return beginning
            fits = known.journal == beginning.journal and known.offset >= beginning.offset
            return known if fits and _ends_a_line(file, known.offset) else beginning

    def is_settled(self, end: Position) -> bool:
        """Whether the event that ends there was settled; a replaced journal was settled whole."""
        settled = self.settled()
        return settled.journal != end.journal or settled.offset >= end.offset

    def waiting(self, after: Position | None = None) -> list[Entry]:
        """The next entries behind `after`, or behind what is settled; a torn last line is none.

        Reads under the writers' lock: an event whose writing fails is never seen.
        """
        if not self._events.exists():
            return []
        with locked(self.folder / "append.lock"), self._events.open("rb") as file:
            start = after or self.settled()
            if start.journal != _beginning(file).journal:
                start = _beginning(file)
            file.seek(start.offset)
            block = file.read(_BATCH_BYTES)
            if b"\n" not in block:
                block += file.readline()
        return list(_entries(block, start))

    def size(self) -> int:
        """Bytes in the journal; a change means that some process appended or replaced it."""
        try:
            return self._events.stat().st_size
        except FileNotFoundError:
            return 0

    def count_waiting(self) -> int:
        """How many events are not settled."""
        if not self._events.exists():
            return 0
        with self._events.open("rb") as file:
            file.seek(self.settled().offset)
            return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(_BATCH_BYTES), b""))

    def settle(self, end: Position) -> None:
        """Everything up to `end` was delivered or set aside."""
        # in place and of fixed length: one write, which a killed process did or did not do
        descriptor = os.open(self._delivered, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, f"{end.journal} {end.offset:020d}\n".encode())
        finally:
            os.close(descriptor)

    def refuse(self, event: Event, reason: str) -> None:
        """Keep an event that the backend will never take where a person can find it."""
        record = {"reason": reason, **json.loads(event.to_line())}
        self._set_aside(self._refused, json.dumps(record).encode() + b"\n")

    def was_refused(self, event_id: str) -> bool:
        """Whether the event is among those that the backend refused."""
        if not self._refused.exists():
            return False
        needle = json.dumps(event_id).encode()
        with self._refused.open("rb") as file:
            return any(needle in line for line in file)

    def keep_damaged(self, line: bytes) -> None:
        """Keep a line that can't be read back where a person can find it."""
        self._set_aside(self._damaged, line + b"\n")

    def compact(self) -> None:
        """Replace a large journal in which nothing waits by an empty one."""
        with locked(self.folder / "append.lock"):
            if self.size() > COMPACT_BYTES and self.settled().offset == self.size():
                self._begin()

    def try_deliver_lock(self) -> IO[bytes] | None:
        """The right to deliver, until the file is closed; None while another process has it."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return try_lock(self.folder / "deliver.lock")

    def _begin(self) -> None:
        fresh = self._events.with_suffix(".new")
        with _raw(fresh, "wb") as file:
            _write_whole(file, json.dumps({"journal": uuid.uuid4().hex}).encode() + b"\n")
        fresh.replace(self._events)
        _sync_folder(self.folder)

    def _set_aside(self, path: Path, line: bytes) -> None:
        with _raw(path, "ab") as file:
            _write_whole(file, line)


def _raw(path: Path, mode: Literal["rb", "r+b", "wb", "ab"]) -> FileIO:
    """Without a buffer: closing a file must not write what `_take_back` took back."""
    return path.open(mode, buffering=0)


def _beginning(file: IO[bytes] | FileIO) -> Position:
    """Behind the header line, which names the journal."""
    file.seek(0)
    header, newline, _ = file.read(_HEADER_BYTES).partition(b"\n")
    try:
        journal = json.loads(header)["journal"]
    except (KeyError, TypeError, ValueError):
        journal = None
    if not newline or not isinstance(journal, str):
        # damaged: its bytes still tell this journal from another, and no line is skipped
        return Position(uuid.uuid5(uuid.NAMESPACE_OID, header.hex()).hex, 0)
    return Position(journal, len(header) + 1)


def _ends_a_line(file: FileIO, offset: int) -> bool:
    file.seek(offset - 1)
    return file.read(1) == b"\n"


def _entries(block: bytes, start: Position) -> Iterator[Entry]:
    offset = start.offset
    for line in block.split(b"\n")[:-1]:
        offset += len(line) + 1
        try:
            event: Event | bytes = Event.from_line(line)
        except ValueError:
            event = line
        yield Entry(event, Position(start.journal, offset))


def _cut_torn_tail(file: FileIO) -> int:
    """Drop what a writer that died left behind the last whole line; the end of that line."""
    end = file.seek(0, os.SEEK_END)
    whole = end
    while whole:
        start = max(0, whole - 4096)
        file.seek(start)
        cut = file.read(whole - start).rfind(b"\n")
        if cut >= 0:
            whole = start + cut + 1
            break
        whole = start
    if whole != end:
        file.truncate(whole)
    file.seek(whole)
    return whole


def _write_whole(file: FileIO, line: bytes) -> None:
    """Write and wait for the disk; what was written of a line that did not fit is taken back."""
    begin = file.tell()
    try:
        written = 0
        while written < len(line):
            written += file.write(line[written:])
        os.fsync(file.fileno())
    except OSError:
        _take_back(file, begin)
        raise


def _take_back(file: FileIO, begin: int) -> None:
    try:
        file.truncate(begin)
    except OSError:  # a torn line is cut off by the next append
        return


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows has no descriptors of folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
