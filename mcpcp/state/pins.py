"""Pins on Redis: the lock file's text, shared by every gateway of the fleet."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping
from typing import Final

from redis.exceptions import LockError

from mcpcp import lockfile
from mcpcp.lockfile import Pins
from mcpcp.state.connection import AWAY, PREFIX, Redis

VERSION: Final = f"{PREFIX}pins:version"
_TEXT: Final = f"{PREFIX}pins"
_HELD: Final = 10.0
"""Seconds after which a lock whose holder died is free again."""


class RedisPins:
    """See pins.PinStore. In a gateway the beat brings `version`; elsewhere it is looked up once."""

    def __init__(self, store: Redis) -> None:
        self._store = store
        with store.needed("the pinned tools can't be read"):
            self.version: str | None = store.sync.get(VERSION)

    def __str__(self) -> str:
        return f"the pins at {self._store.place}"

    def stamp(self) -> object:
        """See PinStore."""
        return self.version

    def read(self) -> Mapping[str, Pins]:
        """See PinStore."""
        with self._as_oserror():
            return lockfile.parse(self._store.sync.get(_TEXT) or "", str(self))

    @contextlib.contextmanager
    def locked(self, patience: float) -> Iterator[None]:
        """See PinStore."""
        with self._as_oserror():
            lock = self._store.sync.lock(f"{_TEXT}:lock", timeout=_HELD, blocking_timeout=patience)
            with lock:
                self.version = self._store.sync.get(VERSION)
                yield

    def write(self, text: str) -> None:
        """See PinStore."""
        version = secrets.token_hex(8)
        with self._as_oserror(), self._store.sync.pipeline(transaction=True) as commands:
            commands.set(_TEXT, text)
            commands.set(VERSION, version)
            commands.execute()
        self.version = version

    @contextlib.contextmanager
    def _as_oserror(self) -> Iterator[None]:
        try:
            yield
        except LockError as error:
            raise TimeoutError(f"another process holds {self}") from error
        except AWAY as error:
            raise OSError(self._store.absence(error)) from error
