"""Tools' definitions, pinned as they were first seen: a changed one is withheld until approved.

Above: the gateway reviews each server's offer with a PinBook, the CLI approves and shows what
changed. The lock file beside the config is shared by all processes of that config, and written so
that it can be kept in version control. What is decided is decided by `judge` and `examine`, purely.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

from mcpcp.config import PinPolicy, ServerConfig
from mcpcp.errors import ConfigError
from mcpcp.files import locked_folder, write_atomically
from mcpcp.lockfile import Definition, Pin, Pins, Version, parse, to_text, version_of
from mcpcp.names import ToolName

logger = logging.getLogger(__name__)

CHECK_EVERY: Final = 0.5
"""Seconds between two looks at the file, which another process may have changed."""

MOST_TOOLS: Final = 2000
"""Pins that one server can have: a server that offers ever new names must not fill the disk."""

PATIENCE: Final = 10.0
"""Seconds to wait for another process that writes the file: what could not be written is forgotten
with the next change by another."""


class Verdict(StrEnum):
    """What a pin says to a definition."""

    NEW = "new"
    SAME = "same"
    QUARANTINED = "quarantined"
    REPORTED = "reported"


@dataclass(frozen=True, slots=True)
class Reviewed:
    """A server's definitions that may be offered, and the names of the tools that changed."""

    kept: tuple[Definition, ...]
    quarantined: tuple[str, ...] = ()
    reported: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Waiting:
    """A change that nobody has approved yet."""

    name: ToolName
    pin: Pin

    @property
    def digest(self) -> str:
        """The hash of what would be approved."""
        return self.pin.pending.digest if self.pin.pending else ""


def judge(policy: PinPolicy, pinned: Version | None, now: Version) -> Verdict:
    """Whether a tool is offered, whose pin is `pinned` and which is now as `now`."""
    if policy == "off" or (pinned is not None and pinned.digest == now.digest):
        return Verdict.SAME
    if pinned is None:
        return Verdict.NEW
    return Verdict.QUARANTINED if policy == "quarantine" else Verdict.REPORTED


def examine(
    policy: PinPolicy, pins: Pins, definitions: tuple[Definition, ...]
) -> tuple[Reviewed, Pins]:
    """The review of one server's definitions, and its pins after it.

    Pins of tools that are not offered now stay, so that a tool can't change by going away.
    """
    after = dict(pins)
    kept: list[Definition] = []
    quarantined: list[str] = []
    reported: list[str] = []
    for definition in definitions:
        name = str(definition.get("name"))
        verdict = _take(policy, after, name, version_of(definition))
        if verdict is Verdict.QUARANTINED:
            quarantined.append(name)
        else:
            kept.append(definition)
        if verdict is Verdict.REPORTED:
            reported.append(name)
    return Reviewed(tuple(kept), tuple(quarantined), tuple(reported)), after


def _take(policy: PinPolicy, pins: dict[str, Pin], name: str, now: Version | None) -> Verdict:
    """The verdict on one tool, which `pins` then has as it is now."""
    pin = pins.get(name)
    if now is None or (pin is None and len(pins) >= MOST_TOOLS):
        return Verdict.QUARANTINED
    verdict = judge(policy, pin.approved if pin else None, now)
    if pin is None:
        pins[name] = Pin(now)
    else:
        pins[name] = Pin(pin.approved, None if now.digest == pin.approved.digest else now)
    return verdict


def _unjudged(server: ServerConfig, definitions: tuple[Definition, ...]) -> Reviewed:
    """What is offered while nobody knows the pins: only what would be offered changed."""
    if server.pin != "quarantine":
        return Reviewed(definitions)
    return Reviewed((), tuple(str(definition.get("name")) for definition in definitions))


class PinStore(Protocol):
    """Where pins are kept; `str` of it is what messages call it."""

    def stamp(self) -> object:
        """Something else after each change, None while there is nothing."""

    def read(self) -> Mapping[str, Pins]:
        """What is pinned; raises ConfigError where it is broken, OSError where it is away."""

    def locked(self, patience: float) -> AbstractContextManager[None]:
        """Keep every other process from writing; raises OSError after `patience` seconds."""

    def write(self, text: str) -> None:
        """Replace everything by `text`, whole; raises OSError."""


class FilePins:
    """The lock file beside the config."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def stamp(self) -> object:
        """See PinStore."""
        try:
            status = self._path.stat()
        except OSError:
            return None
        return (status.st_mtime_ns, status.st_size, status.st_ino)

    def read(self) -> Mapping[str, Pins]:
        """See PinStore."""
        try:
            text = self._path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{self._path}: can't be read: {error}") from None
        return parse(text, str(self._path))

    def locked(self, patience: float) -> AbstractContextManager[None]:
        """See PinStore."""
        return locked_folder(self._path.parent, patience)

    def write(self, text: str) -> None:
        """See PinStore."""
        write_atomically(self._path, text.encode(), 0o644)


class PinBook:
    """The pins of one config: reviewed by gateways, approved from the command line.

    A store that is broken leaves the last good state in force and is not written over. Where there
    is no last good one, everything is withheld whose change would be. One that is emptied under
    a running gateway is written again: what it has pinned is forgotten only with its own end.
    """

    def __init__(self, store: PinStore) -> None:
        self._store = store
        self._servers: Mapping[str, Pins] | None = {}
        self._version = 0
        self._stamp: object = None
        self._next_check = 0.0
        self._broken: ConfigError | None = None
        self._results: dict[str, _Result] = {}
        self.refresh()

    # What the gateway asks.

    def review(self, server: ServerConfig, definitions: tuple[Definition, ...]) -> Reviewed:
        """Which of `definitions` may be offered; first sights and changes go into the file.

        The very same answer as last time while server, definitions and file are as they were.
        """
        if time.monotonic() >= self._next_check:
            self.refresh()
        result = self._results.get(server.name)
        if result is None or not result.holds(server.pin, definitions, self._version):
            reviewed = self._review(server, definitions)
            result = _Result(server.pin, definitions, self._version, reviewed)
            self._results[server.name] = result
        return result.reviewed

    def refresh(self) -> bool:
        """Read the file if it changed; whether what is pinned differs from before."""
        self._next_check = time.monotonic() + CHECK_EVERY
        stamp = self._store.stamp()
        if stamp is None or stamp == self._stamp:
            return False
        try:
            servers = self._store.read()
        except OSError as error:  # away for now: it is looked at again
            self._take_as_broken(ConfigError(str(error)))
            return False
        except ConfigError as error:
            self._stamp = stamp  # a broken file is reported once, not twice a second
            self._take_as_broken(error)
            return False
        self._stamp = stamp
        self._broken = None
        return self._adopt(servers)

    async def follow(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever another process changed what is pinned; until cancelled."""
        while True:
            await asyncio.sleep(CHECK_EVERY)
            if self.refresh():
                changed()

    # What a person asks.

    def waiting(self) -> tuple[Waiting, ...]:
        """The changes that wait for approval, sorted; raises ConfigError for a broken file."""
        self.refresh()
        return tuple(
            Waiting(ToolName(server, tool), pin)
            for server, pins in sorted(self._readable().items())
            for tool, pin in sorted(pins.items())
            if pin.pending is not None
        )

    def approve(self, chosen: Collection[Waiting]) -> tuple[ToolName, ...]:
        """Pin the changes that were chosen; those that changed again meanwhile are left out.

        Raises ConfigError where the file can't be read or written.
        """
        wanted = {waiting.name: waiting.digest for waiting in chosen}
        try:
            with self._store.locked(PATIENCE):
                self.refresh()
                servers, approved = _approve(self._readable(), wanted)
                self._save(servers)
        except OSError as error:
            raise ConfigError(f"{self._store}: can't be written: {error}") from None
        return approved

    # How it is kept.

    def _review(self, server: ServerConfig, definitions: tuple[Definition, ...]) -> Reviewed:
        if server.pin == "off":
            return Reviewed(definitions)
        if self._servers is None:
            return _unjudged(server, definitions)
        pins = self._servers.get(server.name, {})
        reviewed, after = examine(server.pin, pins, definitions)
        return reviewed if after == pins else self._pin(server, definitions)

    def _pin(self, server: ServerConfig, definitions: tuple[Definition, ...]) -> Reviewed:
        """Examine once more while nobody else writes, and keep what comes of it."""
        try:
            with self._store.locked(PATIENCE):
                self.refresh()
                if self._servers is None:
                    return _unjudged(server, definitions)
                reviewed, servers = self._examined(server, definitions)
                self._save(servers)
        except OSError as error:
            logger.warning("%s can't be written: %s; the pins are in memory", self._store, error)
            reviewed, servers = self._examined(server, definitions)
            self._adopt(servers)
        return reviewed

    def _examined(
        self, server: ServerConfig, definitions: tuple[Definition, ...]
    ) -> tuple[Reviewed, Mapping[str, Pins]]:
        servers = self._servers or {}
        before = servers.get(server.name, {})
        reviewed, after = examine(server.pin, before, definitions)
        _tell(server, before, after)
        return reviewed, {**servers, server.name: after}

    def _save(self, servers: Mapping[str, Pins]) -> None:
        """In memory in any case, so that a full disk does not undo a quarantine."""
        self._adopt(servers)
        if self._broken is None:  # else a person is at work on it
            self._store.write(to_text(servers))
            self._stamp = self._store.stamp()

    def _adopt(self, servers: Mapping[str, Pins]) -> bool:
        differs = servers != self._servers
        if differs or not self._version:
            self._servers = servers
            self._version += 1
        return differs

    def _take_as_broken(self, error: ConfigError) -> None:
        self._broken = error
        if not self._version:
            self._servers = None
        state = "the pins in force stay" if self._version else "tools are withheld until it is good"
        logger.error("%s; %s", error, state)

    def _readable(self) -> Mapping[str, Pins]:
        if self._broken is not None:
            raise self._broken
        return self._servers or {}


@dataclass(frozen=True, slots=True)
class _Result:
    """A review, and of what it was."""

    policy: PinPolicy
    definitions: tuple[Definition, ...]
    version: int
    reviewed: Reviewed

    def holds(self, policy: PinPolicy, definitions: tuple[Definition, ...], version: int) -> bool:
        """Whether reviewing these would say the same."""
        same = definitions is self.definitions or definitions == self.definitions
        return same and (policy, version) == (self.policy, self.version)


def _tell(server: ServerConfig, before: Pins, after: Pins) -> None:
    """Log each change once, however often it is seen."""
    for name, pin in after.items():
        known = before.get(name)
        if pin.pending is None or (known is not None and known.pending == pin.pending):
            continue
        what = "is not offered until it is approved" if server.pin == "quarantine" else "is offered"
        logger.warning(
            "%s:%s changed its definition and %s; see: mcpcp tools diff", server.name, name, what
        )


def _approve(
    servers: Mapping[str, Pins], wanted: Mapping[ToolName, str]
) -> tuple[Mapping[str, Pins], tuple[ToolName, ...]]:
    """`servers` with what is pending under the wanted hash approved, and which that were."""
    after = {server: dict(pins) for server, pins in servers.items()}
    approved = []
    for name, digest in sorted(wanted.items()):
        pin = after.get(name.server, {}).get(name.tool)
        if pin is not None and pin.pending is not None and pin.pending.digest == digest:
            after[name.server][name.tool] = Pin(pin.pending)
            approved.append(name)
    return after, tuple(approved)
