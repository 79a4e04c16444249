"""Files that several processes share: replaced whole, locked, private."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path

LOCK_DEADLINE = 60.0
"""Seconds to wait for another process that holds a lock, and may be making a key meanwhile, which
takes a slow machine some."""


def write_atomically(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace `path` by `data`, which is on disk before it is visible; links are followed."""
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        _write_synced(draft, data, mode)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _write_synced(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(
        path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode
    )
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    if sys.platform == "win32":
        return  # folders can't be opened there, and renames are journalled
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def back_up(path: Path) -> Path:
    """Copy `path` beside itself under a name that was free, and say which."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for n in range(1000):
        backup = path.with_name(f"{path.name}.backup-{stamp}" + (f"-{n}" if n else ""))
        try:
            _write_synced(backup, path.read_bytes(), 0o600)
        except FileExistsError:
            continue
        return backup
    raise FileExistsError(path)


@contextlib.contextmanager
def locked(path: Path, patience: float = LOCK_DEADLINE) -> Iterator[None]:
    """Hold the lock file `path` against other processes and threads; it ends with its holder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _await_lock(descriptor, path, patience)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked_folder(folder: Path, patience: float = LOCK_DEADLINE) -> Iterator[None]:
    """As `locked`, but by a lock on the folder itself: where that works, no file is left in it."""
    if sys.platform == "win32":
        with locked(folder / "folder.lock", patience):
            yield
    else:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            _await_lock(descriptor, folder, patience)
            yield
        finally:
            os.close(descriptor)


def _await_lock(descriptor: int, path: Path, patience: float) -> None:
    deadline = time.monotonic() + patience
    while not _try_lock(descriptor):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} has been locked by another process for {patience:.0f} s")
        time.sleep(0.01)


def _try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
