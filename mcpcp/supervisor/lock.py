"""One fleet a config: a lock that the system releases however its holders end.

Guard and supervisor share one open file, so it stays locked until both are gone; no server inherits
it. The file says who holds the lock, for the second comer's error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mcpcp.errors import DeadlineExceeded, FleetError

LOCK: Final = "lock"
LOOK_MARGIN: Final = 10.0
"""Seconds that one who only looks may hold the lock: it may be stopped while it does."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a fleet's lock; `started` is local time as people write it."""

    pid: int
    started: str
    config: str


def acquire(runtime_dir: Path, config: Path) -> int:
    """A descriptor that holds the lock; raises FleetError saying who else has it."""
    until = time.monotonic() + LOOK_MARGIN
    while (descriptor := _lock_current(runtime_dir)) is None:
        # Somebody may only have looked whether the lock is held, or be about to write its name, or
        # a fleet may be ending after its guard: all that passes, but for a holder that lives.
        holder = read_holder(runtime_dir)
        if time.monotonic() > until or (holder is not None and _lives(holder)):
            raise FleetError(_already_running(holder, config))
        time.sleep(0.01)
    about = {
        "pid": os.getpid(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "config": str(config),
    }
    os.ftruncate(descriptor, 0)
    _pwrite(descriptor, json.dumps(about).encode())
    return descriptor


def release(runtime_dir: Path, descriptor: int) -> None:
    """Remove the file, while it is still ours, and let go."""
    remove(runtime_dir)
    os.close(descriptor)


def remove(runtime_dir: Path) -> None:
    """Remove the file; only for one who holds the lock."""
    if sys.platform != "win32":  # there a file that is open can't be removed, and need not be
        (runtime_dir / LOCK).unlink(missing_ok=True)


def _lock_current(runtime_dir: Path) -> int | None:
    """Lock the file that lies there now: what was opened may have been removed meanwhile."""
    descriptor = _open(runtime_dir)
    if _lock_file(descriptor):
        try:
            if _is_current(runtime_dir, descriptor):
                return descriptor
        except OSError:
            pass
    os.close(descriptor)
    return None


def _is_current(runtime_dir: Path, descriptor: int) -> bool:
    return os.path.samestat((runtime_dir / LOCK).stat(), os.fstat(descriptor))


def is_held(runtime_dir: Path) -> bool:
    """Whether a fleet runs, starts or ends there."""
    try:
        descriptor = os.open(runtime_dir / LOCK, os.O_RDWR)  # looking leaves no file behind
    except FileNotFoundError:
        return False
    try:
        return not _lock_file(descriptor)
    finally:
        os.close(descriptor)


def wait_released(runtime_dir: Path, timeout: float) -> None:
    """Return when no process of the fleet's holds the lock; raises DeadlineExceeded."""
    until = time.monotonic() + timeout
    while is_held(runtime_dir):
        if time.monotonic() > until:
            raise DeadlineExceeded("the fleet has not ended in time")
        time.sleep(0.01)


def read_holder(runtime_dir: Path) -> Holder | None:
    """Who holds the lock, or held it last; None where that is not (yet) known."""
    try:
        return Holder(**json.loads((runtime_dir / LOCK).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _lives(holder: Holder) -> bool:
    import psutil

    try:
        return bool(psutil.Process(holder.pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _already_running(holder: Holder | None, config: Path) -> str:
    who = f"by pid {holder.pid}, since {holder.started}" if holder else "by another process"
    return (
        f"the fleet of {config} runs already, started {who}: "
        "`mcpcp status` shows it, `mcpcp down` stops it"
    )


def _open(runtime_dir: Path) -> int:
    return os.open(runtime_dir / LOCK, os.O_RDWR | os.O_CREAT, 0o600)


if sys.platform == "win32":
    import msvcrt

    _FAR: Final = 1 << 30  # past the text, which stays readable: locks are mandatory there

    def _lock_file(descriptor: int) -> bool:
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _pwrite(descriptor: int, data: bytes) -> None:
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, data)

else:
    import fcntl

    def _lock_file(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _pwrite(descriptor: int, data: bytes) -> None:
        os.pwrite(descriptor, data, 0)
