"""Unpacked environments on disk, one folder for each lock, shared by all agents and processes.

    environments/DIGEST/    what sandboxes see, read-only
    records/DIGEST.json     its lock; an environment without one does not count
    staging/NAME/           an installation under way, locked by the process that works on it

An environment in use is leased: a shared lock on its record. The least recently used ones go when
there is too much.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import secrets
import shutil
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.to_thread

if sys.platform == "win32":
    raise ImportError("only Unix has this")

from servers.packages import disk, usage
from servers.packages.errors import Unusable
from servers.packages.lock import Lock
from servers.sandboxing.outcome import MIB

logger = logging.getLogger(__name__)

_SHOWN = 0o755
"""Of the folders: sandboxes are another user."""

Fill = Callable[[Lock, Path], Awaitable[Path]]
"""Installs a lock into an empty folder; where below it the packages lie then."""


@dataclass(slots=True)
class _Turn:
    lock: anyio.Lock = field(default_factory=anyio.Lock)
    users: int = 0


class Store:
    """Environments below `root`, `most` bytes of them together."""

    def __init__(self, root: Path, fill: Fill, most: int = 4096 * MIB) -> None:
        self._root = root
        self._fill = fill
        self._most = most
        self._turns: dict[str, _Turn] = {}
        self._prepared = False

    @property
    def environments(self) -> Path:
        """The folder that holds one folder for each environment."""
        return self._root / "environments"

    def prepare(self) -> None:
        """Make the folders and remove what a killed process left; raises OSError.

        Where it could not be done, `lease` does it.
        """
        for folder in (self._root, self.environments, self._records, self._staging):
            folder.mkdir(parents=True, exist_ok=True)
            if stat.S_IMODE(folder.stat().st_mode) != _SHOWN:
                folder.chmod(_SHOWN)
        with self._exclusively():
            for folder in self._staging.iterdir():
                with suppress(BlockingIOError), _held(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    _discard(folder)
            for folder in self.environments.iterdir():
                if not self._record(folder.name).exists():
                    _discard(folder)
        self._prepared = True

    @asynccontextmanager
    async def lease(self, lock: Lock) -> AsyncIterator[Path]:
        """The lock's environment, which stays as long as the context lasts; installed if need be.

        One caller installs, the others wait; where that one gives up, the next one does it. Raises
        what the installation raises, Unusable and DiskRefuses.
        """
        digest = lock.digest
        while True:
            async with self._turn(digest):
                with disk.telling(disk.CACHE):
                    held = await self._found_or_installed(lock)
            if held is not None:
                break
        try:
            yield self.environments / digest
        finally:
            os.close(held)

    async def _found_or_installed(self, lock: Lock) -> int | None:
        """A descriptor that keeps the environment; None where it was evicted at once."""
        if not self._prepared:
            await anyio.to_thread.run_sync(self.prepare)
        held = self._leased(lock.digest)
        if held is None:
            await self._install(lock)
            held = self._leased(lock.digest)
        return held

    @asynccontextmanager
    async def _turn(self, digest: str) -> AsyncIterator[None]:
        turn = self._turns.setdefault(digest, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[digest]

    def _leased(self, digest: str) -> int | None:
        """A descriptor that keeps the environment; None where there is no environment."""
        try:
            held = os.open(self._record(digest), os.O_RDONLY)
        except FileNotFoundError:
            return None
        kept = False
        try:
            with self._exclusively():
                kept = bool(os.fstat(held).st_nlink)
                if kept:
                    fcntl.flock(held, fcntl.LOCK_SH)
                    with suppress(OSError):  # on a disk that became read-only it is still of use
                        os.utime(held)
        finally:
            if not kept:  # evicted in that moment
                os.close(held)
        return held if kept else None

    async def _install(self, lock: Lock) -> None:
        async with self._drafted(lock.digest) as draft:
            (draft / "target").mkdir()
            filled = await self._fill(lock, draft / "target")
            size = await anyio.to_thread.run_sync(_checked, filled)
            with self._exclusively():
                self._publish(lock, draft, filled, size)
        try:
            await anyio.to_thread.run_sync(self._evict, lock.digest)
        except OSError:  # what was installed is there
            logger.exception("environments can't be evicted")

    @asynccontextmanager
    async def _drafted(self, digest: str) -> AsyncIterator[Path]:
        """A folder to install into, that no sweep takes for a dead process's; gone at the end."""
        draft = self._draft(digest)
        with ExitStack() as held:
            try:
                with self._exclusively():
                    draft.mkdir()
                    held.enter_context(_held(draft, fcntl.LOCK_EX))
                yield draft
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(_discard, draft)

    def _publish(self, lock: Lock, draft: Path, filled: Path, size: int) -> None:
        """The record last, and in one step: without it an environment does not count.

        It is written where the installer could not lay a link in its way.
        """
        record, place = self._record(lock.digest), self.environments / lock.digest
        if record.exists():  # another process was quicker
            return
        written = draft / record.name
        written.write_text(json.dumps({"size": size, "lock": lock.to_json()}) + "\n", "utf-8")
        _discard(place)
        filled.rename(place)
        try:
            written.rename(record)
        except OSError:
            _discard(place)
            raise

    def _evict(self, spared: str) -> None:
        """Remove the least recently used environments that nobody uses, until the rest fits."""
        gone = []
        with self._exclusively():
            records = sorted(self._records.glob("*.json"), key=lambda r: r.stat().st_mtime)
            total = sum(map(_size, records))
            for record in records:
                if total > self._most and record.stem != spared and not _in_use(record):
                    total -= _size(record)
                    gone.append(self._put_aside(record))
        for folder in gone:
            _discard(folder)

    def _put_aside(self, record: Path) -> Path:
        aside = self._draft(record.stem)
        record.unlink()
        with suppress(FileNotFoundError):
            (self.environments / record.stem).rename(aside)
        logger.info("an environment was evicted", extra={"digest": record.stem})
        return aside

    def _draft(self, digest: str) -> Path:
        return self._staging / f"{digest[:12]}-{secrets.token_hex(6)}"

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        """Against other processes: for moments only, never while an installation runs."""
        descriptor = _opened(self._root / "lock")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @property
    def _records(self) -> Path:
        return self._root / "records"

    @property
    def _staging(self) -> Path:
        return self._root / "staging"

    def _record(self, digest: str) -> Path:
        return self._records / f"{digest}.json"


def _opened(lock: Path) -> int:
    try:
        return os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as e:
        if e.errno != errno.EROFS:
            raise
        return os.open(lock, os.O_RDONLY)  # what is there can be used on a disk that is read-only


@contextmanager
def _held(path: Path, how: int) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)


def _in_use(record: Path) -> bool:
    try:
        with _held(record, fcntl.LOCK_EX | fcntl.LOCK_NB):
            return False
    except BlockingIOError:
        return True


def _checked(filled: Path) -> int:
    """Its size, when it may be shown; raises Unusable."""
    flaw = usage.seal(filled)
    if flaw is not None:
        raise Unusable(flaw)
    return usage.of(filled).size


def _size(record: Path) -> int:
    try:
        return int(json.loads(record.read_bytes())["size"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _discard(folder: Path) -> None:
    """With all that is in it; where it is not there, nothing."""
    shutil.rmtree(folder, ignore_errors=True)
