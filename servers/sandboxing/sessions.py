"""Workspaces that outlive a call: each an agent's own, capped, listed, deleted when idle.

Above: `sandbox` fills /work from one and brings back what changed; tool servers list and edit them.

On disk a session is a folder named by hashes, with one manifest and numbered blobs: no name that a
program chose is ever a name on the host, and a manifest is replaced as a whole, so a crash leaves
the state before or after a call, never between.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio

from servers.sandboxing.outcome import MIB
from servers.sandboxing.paths import BadPath, checked

logger = logging.getLogger(__name__)

_MANIFEST = "manifest.json"


class SessionRefused(Exception):
    """The session can't be used so; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class SessionRules:
    """What sessions may use; `disk` and `file_size` are bytes, `idle` and `patience` seconds."""

    per_agent: int = 8
    total: int = 64
    idle: float = 3600.0
    disk: int = 64 * MIB
    file_size: int = 16 * MIB
    file_count: int = 1024
    file_depth: int = 8
    patience: float = 30.0


@dataclass(frozen=True, slots=True)
class SessionKey:
    """Whose session, and which."""

    agent: str
    name: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a workspace; `blob` is where its content lies."""

    path: str
    size: int
    blob: str


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session as its agent may see it; times are seconds since 1970."""

    name: str
    files: int
    size: int
    created: float
    used: float
    expires: float


@dataclass(frozen=True, slots=True)
class _Manifest:
    agent: str
    name: str
    created: float
    used: float
    entries: Mapping[str, Entry]

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.entries.values())


class Workspace:
    """One session's files, held by one call at a time; changes are kept by `change` or not at all.

    Methods read and write the disk in place: files are few and small.
    """

    def __init__(self, folder: Path, manifest: _Manifest, rules: SessionRules) -> None:
        self._folder = folder
        self._manifest = manifest
        self._rules = rules

    @property
    def entries(self) -> Mapping[str, Entry]:
        """The files by path."""
        return self._manifest.entries

    def read(self, path: str) -> bytes:
        """A file's content; raises SessionRefused where there is none of that path."""
        entry = self._manifest.entries.get(path)
        if entry is None:
            raise SessionRefused(f"there is no file {path!r} in this session: see list_files")
        with _disk():
            return (self._folder / entry.blob).read_bytes()

    def change(self, written: Iterable[tuple[str, bytes]], deleted: Iterable[str] = ()) -> None:
        """Write and delete files, all or nothing; raises SessionRefused over the caps."""
        entries = {p: e for p, e in self._manifest.entries.items() if p not in set(deleted)}
        fresh: list[Path] = []
        try:
            for path, data in written:
                blob = self._folder / secrets.token_hex(8)
                fresh.append(blob)
                self._check(path, data)
                with _disk():
                    blob.write_bytes(data)
                entries[path] = Entry(path, len(data), blob.name)
            self._commit(replace(self._manifest, entries=entries))
        except BaseException:
            for blob in fresh:
                _remove(blob)
            raise

    def touch(self, now: float) -> None:
        """Note that it was used, at `now` seconds since 1970; not noted where the disk is full."""
        self._manifest = replace(self._manifest, used=now)
        try:
            _save(self._folder, self._manifest)
        except OSError as e:  # no reason to lose the answer of the call that used it
            logger.warning("a session's use can't be noted", extra={"error": str(e)})

    def _check(self, path: str, data: bytes) -> None:
        try:
            checked(path, self._rules.file_depth)
        except BadPath as e:
            raise SessionRefused(f"{path!r}: {e}") from None
        if len(data) > self._rules.file_size:
            raise SessionRefused(f"{path!r} is larger than {self._rules.file_size} bytes")

    def _commit(self, manifest: _Manifest) -> None:
        _check_tree(manifest.entries)
        if len(manifest.entries) > self._rules.file_count:
            raise SessionRefused(f"a session holds at most {self._rules.file_count} files")
        if manifest.size > self._rules.disk:
            raise SessionRefused(f"a session holds at most {self._rules.disk} bytes")
        before = {entry.blob for entry in self._manifest.entries.values()}
        with _disk():
            _save(self._folder, manifest)
        self._manifest = manifest
        for blob in before - {entry.blob for entry in manifest.entries.values()}:
            _remove(self._folder / blob)


@contextmanager
def _disk() -> Iterator[None]:
    """Raises SessionRefused for what the disk refuses."""
    try:
        yield
    except OSError as e:
        logger.exception("sessions can't be kept")
        raise SessionRefused(
            f"the server's disk does not take or give the files ({e.strerror}): try again later;"
            " the operator has to make room where SANDBOX_DATA is"
        ) from e


def _check_tree(paths: Iterable[str]) -> None:
    """No file may be where another one has its folder."""
    files = set(paths)
    for path in files:
        parts = path.split("/")
        for end in range(1, len(parts)):
            if "/".join(parts[:end]) in files:
                raise SessionRefused(f"{'/'.join(parts[:end])!r} is a file, not a folder")


@dataclass(slots=True)
class _Turn:
    place: anyio.Semaphore = field(default_factory=lambda: anyio.Semaphore(1))
    users: int = 0


class Sessions:
    """All sessions in one folder, which belongs to this process alone."""

    def __init__(
        self,
        folder: Path,
        rules: SessionRules | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._rules = rules or SessionRules()
        self._clock = clock
        self._turns: dict[SessionKey, _Turn] = {}

    @asynccontextmanager
    async def use(self, key: SessionKey) -> AsyncIterator[Workspace]:
        """The session's workspace, for one user at a time; made where there is none yet.

        Raises SessionRefused where it is in use for too long, where there are too many, and where
        the disk does not take it.
        """
        _check_name(key.name)
        async with self._turn(key):
            self.expire()
            workspace = self._open(key) or self._make(key)
            yield workspace
            if self._place(key).exists():  # not deleted meanwhile
                workspace.touch(self._clock())

    @asynccontextmanager
    async def _turn(self, key: SessionKey) -> AsyncIterator[None]:
        turn = self._turns.setdefault(key, _Turn())
        turn.users += 1
        try:
            with anyio.move_on_after(self._rules.patience) as waiting:
                await turn.place.acquire()
            if waiting.cancelled_caught:
                raise SessionRefused(f"session {key.name!r} is busy with another call: try later")
            try:
                yield
            finally:
                turn.place.release()
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[key]

    @asynccontextmanager
    async def existing(self, key: SessionKey) -> AsyncIterator[Workspace]:
        """Like `use`, but raises SessionRefused where there is no such session."""
        if self._open(key) is None:
            raise SessionRefused(f"there is no session {key.name!r}: see list_files")
        async with self.use(key) as workspace:
            yield workspace

    def of(self, agent: str) -> list[SessionInfo]:
        """An agent's sessions, the latest used first."""
        self.expire()
        mine = [m for _, m in self._all() if m.agent == agent]
        infos = [
            SessionInfo(
                m.name, len(m.entries), m.size, m.created, m.used, m.used + self._rules.idle
            )
            for m in mine
        ]
        return sorted(infos, key=lambda info: info.used, reverse=True)

    async def delete(self, key: SessionKey) -> bool:
        """Delete a session and its files; False where there is none."""
        if self._open(key) is None:
            return False
        async with self.use(key):
            with _disk():
                shutil.rmtree(self._place(key))
        return True

    def expire(self) -> None:
        """Delete what nobody used for `idle` seconds, except what is in use now."""
        now = self._clock()
        for folder, manifest in list(self._all()):
            key = SessionKey(manifest.agent, manifest.name)
            if manifest.used + self._rules.idle < now and key not in self._turns:
                shutil.rmtree(folder, ignore_errors=True)
                logger.info("a session expired", extra={"agent": key.agent, "session": key.name})

    def _make(self, key: SessionKey) -> Workspace:
        everybody = [m.agent for _, m in self._all()]
        if everybody.count(key.agent) >= self._rules.per_agent:
            raise SessionRefused(
                f"you have {self._rules.per_agent} sessions, which is the most: delete one first"
            )
        if len(everybody) >= self._rules.total:
            raise SessionRefused("there are too many sessions on this server: try again later")
        now = self._clock()
        manifest = _Manifest(key.agent, key.name, now, now, {})
        place = self._place(key)
        try:
            with _disk():
                place.mkdir(parents=True, mode=0o700, exist_ok=True)
                _save(place, manifest)
        except SessionRefused:
            shutil.rmtree(place, ignore_errors=True)
            raise
        return Workspace(place, manifest, self._rules)

    def _open(self, key: SessionKey) -> Workspace | None:
        place = self._place(key)
        with _disk():  # one that can't be read now is no reason to begin another one
            manifest = _load(place)
        return None if manifest is None else Workspace(place, manifest, self._rules)

    def _place(self, key: SessionKey) -> Path:
        return self._folder / _hash(f"{len(key.agent)}:{key.agent}:{key.name}")

    def _all(self) -> Iterator[tuple[Path, _Manifest]]:
        """Those that can be read."""
        for folder in _folders(self._folder):
            try:
                manifest = _load(folder)
            except OSError as e:
                logger.warning("a session can't be read", extra={"error": str(e)})
                continue
            if manifest is not None:
                yield folder, manifest


def _folders(above: Path) -> list[Path]:
    try:
        return list(above.iterdir())
    except FileNotFoundError:
        return []
    except OSError as e:
        logger.warning("sessions can't be read", extra={"error": str(e)})
        return []


def _check_name(name: str) -> None:
    try:
        checked(name, 1)
    except BadPath as e:
        raise SessionRefused(f"that is no name for a session: {e}") from None


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _load(folder: Path) -> _Manifest | None:
    try:
        found: dict[str, Any] = json.loads((folder / _MANIFEST).read_bytes())
        entries = {p: Entry(p, size, blob) for p, (size, blob) in found["files"].items()}
        return _Manifest(found["agent"], found["name"], found["created"], found["used"], entries)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError):
        logger.warning("a session can't be read", extra={"folder": str(folder)})
        return None


def _save(folder: Path, manifest: _Manifest) -> None:
    text = json.dumps(
        {
            "agent": manifest.agent,
            "name": manifest.name,
            "created": manifest.created,
            "used": manifest.used,
            "files": {e.path: [e.size, e.blob] for e in manifest.entries.values()},
        }
    )
    fresh = folder / f"{_MANIFEST}.{secrets.token_hex(4)}"
    try:
        fresh.write_text(text, "utf-8")
        os.replace(fresh, folder / _MANIFEST)  # noqa: PTH105 - atomic on every system
    except BaseException:
        _remove(fresh)
        raise


def _remove(path: Path) -> None:
    """A file, if it is there; a disk that does not even let go of it is told by what writes."""
    with suppress(OSError):
        path.unlink()
