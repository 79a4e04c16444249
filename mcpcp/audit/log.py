"""The writer: one file a gateway, each record written before its answer leaves.

A record is in the file when `record` returns (a SIGKILL loses none) and on disk within a second.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import orjson

from mcpcp.audit.chain import GENESIS, CallRecord, body_of, read_line, seal
from mcpcp.audit.checkpoint import read_checkpoint, write_checkpoint
from mcpcp.audit.files import next_segment, segments
from mcpcp.errors import KeyRingError, Unavailable
from mcpcp.files import locked

logger = logging.getLogger(__name__)

SYNC_EVERY = 1.0
CHECKPOINT_EVERY = 10.0
_GATEWAYS = 64
"""Gateways that may write beside each other, one log each."""


class AuditLog:
    """The chain of records of this gateway; `run` is its owner's task.

    Where the file can't be written, `record` raises Unavailable so that the call is refused; with
    `required` false it logs that once and lets the call pass. A second gateway of one config writes
    a log of its own (`audit-2.jsonl`, ...).
    """

    def __init__(
        self,
        path: Path,
        keys_dir: Path,
        *,
        max_bytes: int = 64 * 2**20,
        required: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._first_path = path
        self.path = path
        self._keys_dir = keys_dir
        self._max_bytes = max_bytes
        self._required = required
        self._clock = clock
        self._lock = contextlib.ExitStack()
        self._file = -1
        self._size = 0
        self._number = 0
        self._head = GENESIS
        self._signed = 0
        self._failing = False
        self._unsynced: str | None = None

    def record(self, call: CallRecord) -> None:
        """Append one call; raises Unavailable where that fails and audit is required."""
        try:
            self._append(body_of(call))
        except OSError as e:
            self._fail(e.strerror or str(e))
        else:
            self._failing = False

    @property
    def failing(self) -> bool:
        """Whether the last record could not be written, or not be brought to disk."""
        return self._failing or self._unsynced is not None

    def check(self) -> None:
        """Refuse a call that could not be recorded: where writing failed, it is tried first."""
        if not self._failing:
            return
        try:
            self.open()
            self._note(event="resumed")
        except OSError as e:
            self._fail(e.strerror or str(e))
        else:
            self._failing = False

    def open(self) -> None:
        """Take up the log where it ended; `record` does so too, this says early what is wrong."""
        if self._file >= 0:
            return
        self._lock.enter_context(self._own_lock())
        try:
            self._recover()
            write_checkpoint(self.path, self._keys_dir, self._number, self._head)
        except (OSError, KeyRingError) as e:
            self._release()
            raise OSError(0, str(e)) from e
        self._signed = self._number

    async def run(self) -> None:
        """Bring records to disk every second and sign a checkpoint every ten, until cancelled."""
        due = time.monotonic() + CHECKPOINT_EVERY
        while True:
            await anyio.sleep(SYNC_EVERY)
            signing = time.monotonic() >= due
            await self.flush(checkpoint=signing)
            if signing:
                due = time.monotonic() + CHECKPOINT_EVERY

    async def flush(self, *, checkpoint: bool = True) -> None:
        """Bring what was recorded to disk, and sign a checkpoint of it if there is anything new."""
        if self._file < 0 or self._was_taken_away():
            return
        number, head = self._number, self._head
        signing = checkpoint and number != self._signed
        # A descriptor of our own: a rotation may close the file while the thread still syncs it.
        file = os.dup(self._file)
        try:
            await anyio.to_thread.run_sync(self._to_disk, file, number, head, signing)
        finally:
            os.close(file)

    def _was_taken_away(self) -> bool:
        """Whether somebody moved or deleted the file: the next record then starts another."""
        try:
            gone = self.path.stat().st_ino != os.fstat(self._file).st_ino
        except OSError:
            gone = True
        if gone:
            logger.error("the audit log %s was moved or deleted while in use", self.path)
            self._release()
        return gone

    def _to_disk(self, file: int, number: int, head: str, signing: bool) -> None:
        try:
            _sync(file)
            if signing:
                write_checkpoint(self.path, self._keys_dir, number, head)
                self._signed = number
        except (OSError, KeyRingError) as e:
            self._unsynced = str(e)
            logger.exception("the audit log %s can't be brought to disk", self.path)
        else:
            self._unsynced = None

    def close(self) -> None:
        """Bring everything to disk, sign the last checkpoint and let go of the log."""
        if self._file < 0:
            return
        self._to_disk(self._file, self._number, self._head, True)
        self._release()

    def _release(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1
        self._lock.close()

    def _fail(self, why: str) -> None:
        if not self._failing:
            logger.error("the audit log %s can't be written: %s", self.path, why)
        self._failing = True
        if self._required:
            raise Unavailable("the call can't be recorded, so it is refused")

    def _append(self, body: bytes) -> None:
        if self._file < 0:
            self.open()
        if self._unsynced is not None:
            raise OSError(0, self._unsynced)
        if self._size >= self._max_bytes:
            self._rotate()
        line, head = seal(body, self._number + 1, self._clock(), self._head)
        self._write(line)
        self._number += 1
        self._head = head

    def _write(self, line: bytes) -> None:
        written = os.write(self._file, line)
        if written != len(line):
            self._take_back()
            raise OSError(0, "no space left for a whole record")
        self._size += written

    def _take_back(self) -> None:
        try:
            os.ftruncate(self._file, self._size)
        except OSError:
            self._release()  # the torn line is cut when the log is taken up again

    def _note(self, **fields: Any) -> None:
        line, head = seal(orjson.dumps(fields), self._number + 1, self._clock(), self._head)
        self._write(line)
        self._number += 1
        self._head = head

    def _rotate(self) -> None:
        """Go on in a new file, whose first record continues the chain."""
        _sync(self._file)
        os.close(self._file)
        self._file = -1
        try:
            self.path.rename(next_segment(self.path))
        finally:
            self._open_file()
        self._note(event="continued")

    def _own_lock(self) -> contextlib.ExitStack:
        """The lock of the first log that no other gateway writes."""
        for n in range(1, _GATEWAYS + 1):
            path = self._first_path
            self.path = path if n == 1 else path.with_stem(f"{path.stem}-{n}")
            holder = contextlib.ExitStack()
            try:
                holder.enter_context(locked(self.path.with_suffix(".lock"), 0.0))
            except TimeoutError:
                continue
            return holder
        raise OSError(0, f"{_GATEWAYS} other gateways write to {self._first_path.parent}")

    def _open_file(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        self._file = os.open(self.path, flags, 0o600)
        self._size = os.fstat(self._file).st_size

    def _recover(self) -> None:
        """Find the chain's end, cut a torn last line, and note what was found in the log itself."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        checkpoint = read_checkpoint(self.path)
        end = _find_end(self.path)
        if end is not None and end.damaged:
            self.path.rename(next_segment(self.path))  # kept as evidence; nothing can follow it
        self._open_file()
        found = end or _End(0, GENESIS)
        if found.torn:
            os.ftruncate(self._file, self._size - found.torn)
            self._size -= found.torn
        # Records that a checkpoint counted and that are gone leave a gap which nothing closes.
        counted = 0 if checkpoint is None else checkpoint.count
        self._number, self._head = max(found.number, counted), found.head
        notes: dict[str, Any] = {"pid": os.getpid()}
        if found.torn:
            notes["cut_bytes"] = found.torn
        if counted > found.number:
            notes["missing"] = counted - found.number
        self._note(event="started", **notes)


class _End:
    """Where a chain ended: number and hash of its last whole record, and bytes of a torn one."""

    __slots__ = ("damaged", "head", "number", "torn")

    def __init__(self, number: int, head: str, torn: int = 0, *, damaged: bool = False) -> None:
        self.number, self.head, self.torn, self.damaged = number, head, torn, damaged


def _find_end(path: Path) -> _End | None:
    """The end of the chain whose newest file is `path`; None where there is no record yet."""
    torn = 0
    for file in reversed([*segments(path), path]):
        if not file.exists():
            continue
        last, rest = _last_line(file)
        if file == path:
            torn = rest
        if last is None:
            continue
        link = read_line(last, GENESIS)
        if link is None:
            return _End(0, GENESIS, damaged=file == path)
        return _End(link.number, link.stated, torn)
    return _End(0, GENESIS, torn) if torn else None


def _last_line(path: Path) -> tuple[bytes | None, int]:
    """The last line that ends in a newline, and how many bytes follow it."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        block = b""
        position = size
        while position > 0:
            step = min(65536, position)
            position -= step
            file.seek(position)
            block = file.read(step) + block
            end = block.rfind(b"\n")
            start = block.rfind(b"\n", 0, end) if end >= 0 else -1
            if start >= 0 or (end >= 0 and position == 0):
                return block[start + 1 : end + 1], len(block) - end - 1
    return None, size


def _sync(file: int) -> None:
    if sys.platform == "linux":
        os.fdatasync(file)
    else:
        os.fsync(file)
