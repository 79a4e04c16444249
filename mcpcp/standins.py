"""StandIns: sessions with legacy servers in the name of modern clients, who have none."""

from __future__ import annotations

import asyncio
from typing import Final

from mcpcp.backends.connection import Hello
from mcpcp.eras import PARKED_FOR
from mcpcp.policy import Agent
from mcpcp.profiles import Profile, capabilities_of
from mcpcp.registry import Registry
from mcpcp.sessions import ClientSession

KEPT: Final = PARKED_FOR + 60.0
"""Seconds a stand-in is kept after its last use: longer than any call of its may be parked."""


class StandIns:
    """One a grant and profile; servers see such a client as one of theirs."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._sessions: dict[tuple[object, Profile], ClientSession] = {}
        self._timers: dict[tuple[object, Profile], asyncio.TimerHandle] = {}

    def get(self, agent: Agent, profile: Profile) -> ClientSession:
        """The session that stands in for clients of that agent's identity and profile."""
        key = (agent.identity, profile)
        session = self._sessions.get(key)
        if session is None:
            session = self._sessions[key] = ClientSession(
                self._registry, lambda _: None, lambda: agent
            )
            session.introduce(Hello(capabilities=capabilities_of(profile)))
        else:
            self._timers[key].cancel()
        loop = asyncio.get_running_loop()
        self._timers[key] = loop.call_later(KEPT, self._close, key)
        return session

    def _close(self, key: tuple[object, Profile]) -> None:
        del self._timers[key]
        self._sessions.pop(key).close()
