"""StandIns: sessions with legacy servers in the name of modern clients, who have none."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import orjson

from mcpcp.backends.connection import Hello
from mcpcp.eras import PARKED_FOR
from mcpcp.jsonrpc import Message
from mcpcp.registry import Registry
from mcpcp.sessions import ClientSession

KEPT: Final = PARKED_FOR + 60.0
"""Seconds a stand-in is kept after its last use: longer than any call of its may be parked."""


class StandIns:
    """One a grant and set of client capabilities; servers see such a client as one of theirs."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._sessions: dict[tuple[Any, bytes], ClientSession] = {}
        self._timers: dict[tuple[Any, bytes], asyncio.TimerHandle] = {}

    def get(self, identity: object, capabilities: Message) -> ClientSession:
        """The session that stands in for clients of that identity with those capabilities."""
        key = (identity, orjson.dumps(capabilities, option=orjson.OPT_SORT_KEYS))
        session = self._sessions.get(key)
        if session is None:
            session = self._sessions[key] = ClientSession(self._registry, lambda _: None)
            session.hello = Hello(capabilities=capabilities)
        else:
            self._timers[key].cancel()
        loop = asyncio.get_running_loop()
        self._timers[key] = loop.call_later(KEPT, self._close, key)
        return session

    def _close(self, key: tuple[Any, bytes]) -> None:
        del self._timers[key]
        self._sessions.pop(key).close()
