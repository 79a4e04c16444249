"""Places: the processes that clients of a stdio server have to themselves: so many, no more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Protocol

from mcpcp.errors import Unavailable


class Holder(Protocol):
    """A client's own session, which takes a process to run in."""

    @property
    def idle_since(self) -> float | None:
        """The loop time since which nobody uses it; None while somebody does."""

    @property
    def watches(self) -> bool:
        """Whether its client waits for what the server says unasked."""

    def rest(self) -> None:
        """End the process until it is wanted again."""


class NoPlace(Unavailable):
    """Every process that there may be is busy."""


class Places:
    """At most `most` are taken; for one more the process that is idle longest is ended."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._holders: set[Holder] = set()
        self._leaving: set[Holder] = set()
        self._freed = asyncio.Event()

    @contextlib.asynccontextmanager
    async def take(self, holder: Holder) -> AsyncIterator[None]:
        """A place while this is open; raises NoPlace while all holders are busy."""
        while len(self._holders) >= self._most:
            if not self._leaving:
                self._make_room()
            self._freed.clear()
            await self._freed.wait()
        self._holders.add(holder)
        try:
            yield
        finally:
            self._holders.discard(holder)
            self._leaving.discard(holder)
            self._freed.set()

    def _make_room(self) -> None:
        idle = [(h.watches, since, h) for h in self._holders if (since := h.idle_since) is not None]
        if not idle:
            raise NoPlace(
                f"all {self._most} processes that its clients may have are busy: try again later,"
                " or raise `max_sessions` in the config"
            )
        _, _, longest = min(idle, key=lambda found: found[:2])
        self._leaving.add(longest)
        longest.rest()
