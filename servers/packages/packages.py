"""The door to packages: what an agent has installed, what a call needs, and where that lies.

Above: the tool servers. Below: `judgement`, `uv`, `store`, `approvals`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import anyio

from servers.packages import disk
from servers.packages.approvals import Approvals
from servers.packages.errors import (
    BadLock,
    InstallationFailed,
    NoInstaller,
    NotAPackage,
    PackagesRefused,
)
from servers.packages.judgement import Rules, Verdict, judge, worst
from servers.packages.lock import Lock, Target
from servers.packages.names import Requirement, requirement

logger = logging.getLogger(__name__)

_RESOLUTION_SECONDS = 600.0
_MOST_RESOLUTIONS = 256


class Resolver(Protocol):
    """Finds what wanted packages need."""

    async def resolve(self, wanted: Iterable[Requirement], target: Target) -> Lock:
        """Raises InstallationFailed, NoInstaller or BadLock."""
        ...


class Environments(Protocol):
    """Keeps what was installed."""

    def lease(self, lock: Lock) -> AbstractAsyncContextManager[Path]:
        """The lock's environment, installed if need be, for as long as the context lasts.

        Raises InstallationFailed or NoInstaller.
        """
        ...


FindTarget = Callable[[], Awaitable[Target]]
"""What packages are for; raises NoInstaller where no code can be run."""


@dataclass(frozen=True, slots=True)
class Installed:
    """What an agent asked for, and all that came of it."""

    wanted: tuple[Requirement, ...] = ()
    lock: Lock | None = None

    @property
    def packages(self) -> tuple[Requirement, ...]:
        """Everything that is there, each with its version."""
        return tuple(w.requirement for w in self.lock.wheels) if self.lock else ()


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator decides; `agents` is the folder that keeps what each has installed."""

    rules: Rules
    agents: Path
    per_agent: int = 50


@dataclass(slots=True)
class _Resolutions:
    """Answers of the resolver for a while, so that a call with packages costs nothing twice."""

    known: dict[tuple[object, ...], tuple[float, Lock]] = field(default_factory=dict)

    def get(self, key: tuple[object, ...]) -> Lock | None:
        made, lock = self.known.get(key, (float("-inf"), None))
        return lock if time.monotonic() - made < _RESOLUTION_SECONDS else None

    def put(self, key: tuple[object, ...], lock: Lock) -> None:
        while len(self.known) >= _MOST_RESOLUTIONS:
            del self.known[next(iter(self.known))]
        self.known[key] = (time.monotonic(), lock)


class Packages:
    """Installs for agents, under the rules; each agent has packages of its own."""

    def __init__(
        self,
        settings: Settings,
        approvals: Approvals,
        resolver: Resolver,
        environments: Environments,
        target: FindTarget,
    ) -> None:
        self._settings = settings
        self._approvals = approvals
        self._resolver = resolver
        self._environments = environments
        self._target = target
        self._resolutions = _Resolutions()
        self._turns: dict[str, anyio.Lock] = {}

    async def install(self, agent: str, package: Requirement) -> Installed:
        """Add a package, or another version of it, to the agent's; raises PackagesRefused."""
        async with self._turns.setdefault(agent, anyio.Lock()):
            before = self.installed(agent)
            wanted = _with(before.wanted, [package])
            if len(wanted) > self._settings.per_agent:
                raise PackagesRefused(
                    "failed", f"an agent may install {self._settings.per_agent} packages at most"
                )
            lock = await self._resolved(agent, wanted)
            async with self._leased(lock):
                self._keep(agent, Installed(wanted, lock))
        return Installed(wanted, lock)

    def installed(self, agent: str) -> Installed:
        """What the agent has; nothing where that can't be read."""
        try:
            found = json.loads(self._place(agent).read_bytes())
            wanted = tuple(requirement(text) for text in found["wanted"])
            return Installed(wanted, Lock.of_json(found["lock"]))
        except FileNotFoundError:
            return Installed()
        except (OSError, ValueError, KeyError, TypeError, NotAPackage, BadLock):
            logger.warning("an agent's packages can't be read", extra={"agent": agent})
            return Installed()

    @asynccontextmanager
    async def environment(
        self, agent: str, further: Collection[Requirement] = ()
    ) -> AsyncIterator[tuple[Path, ...]]:
        """The folders that hold the agent's packages and further ones, for one call.

        Raises PackagesRefused.
        """
        before = self.installed(agent)
        wanted = _with(before.wanted, further)
        if not wanted:
            yield ()
            return
        target = await self._found_target()
        unchanged = wanted == before.wanted and before.lock and before.lock.target == target
        lock = before.lock if unchanged and before.lock else await self._resolved(agent, wanted)
        self._judge([wheel.requirement for wheel in lock.wheels], agent)
        async with self._leased(lock) as folder:
            yield (folder,)

    async def _resolved(self, agent: str, wanted: tuple[Requirement, ...]) -> Lock:
        """Judged before the index hears of it, and all that it needs once that is known."""
        self._judge(wanted, agent)
        target = await self._found_target()
        key = (wanted, target)
        lock = self._resolutions.get(key)
        if lock is None:
            with _told():
                lock = await self._resolver.resolve(wanted, target)
            self._resolutions.put(key, lock)
        self._judge([wheel.requirement for wheel in lock.wheels], agent)
        return lock

    def _judge(self, packages: Iterable[Requirement], agent: str) -> None:
        approved = self._approvals.approved()
        found = worst(judge(package, self._settings.rules, approved) for package in packages)
        if not found:
            return
        if found[0].status == "blocked":
            raise PackagesRefused("blocked", f"{_listed(found)}. It is not installed for anybody.")
        self._approvals.ask(found, agent)
        names = " ".join(verdict.package.name for verdict in found)
        raise PackagesRefused(
            "requires_approval",
            f"a person has to approve {_listed(found)}. If it is what you mean, ask for"
            f" `mcpcp packages approve {names}` and try again; else look at the name.",
        )

    async def _found_target(self) -> Target:
        with _told():
            return await self._target()

    @asynccontextmanager
    async def _leased(self, lock: Lock) -> AsyncIterator[Path]:
        with _told():
            async with self._environments.lease(lock) as folder:
                yield folder

    def _place(self, agent: str) -> Path:
        digest = hashlib.sha256(agent.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        return self._settings.agents / f"{digest}.json"

    def _keep(self, agent: str, installed: Installed) -> None:
        place = self._place(agent)
        content = {
            "agent": agent,
            "wanted": [str(package) for package in installed.wanted],
            "lock": installed.lock.to_json() if installed.lock else None,
        }
        draft = place.with_suffix(f".{secrets.token_hex(4)}")
        try:
            with _told(), disk.telling(disk.RECORDS):
                place.parent.mkdir(parents=True, exist_ok=True)
                draft.write_text(json.dumps(content) + "\n", "utf-8")
                os.replace(draft, place)  # noqa: PTH105 - atomic on every system
        except PackagesRefused:
            disk.remove(draft)
            raise


@contextmanager
def _told() -> Iterator[None]:
    """What went wrong behind the door, in the door's words."""
    try:
        yield
    except InstallationFailed as e:
        raise PackagesRefused("failed", str(e)) from e
    except NoInstaller as e:
        raise PackagesRefused("unavailable", str(e)) from e


def _with(wanted: Iterable[Requirement], further: Iterable[Requirement]) -> tuple[Requirement, ...]:
    """Sorted, each name once; of two, the later one counts unless it names no version."""
    found = {package.name: package for package in wanted}
    for package in further:
        if package.version is not None or package.name not in found:
            found[package.name] = package
    return tuple(found[name] for name in sorted(found))


def _listed(verdicts: Iterable[Verdict]) -> str:
    return "; ".join(f"{verdict.package}: {verdict.reason}" for verdict in verdicts)
