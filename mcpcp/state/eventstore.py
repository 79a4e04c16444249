"""The events of legacy sessions on Redis; what is told of them is decided in `events`."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from typing import Any, Final

from mcpcp.policy import Identity
from mcpcp.state.connection import AWAY, PREFIX, Redis, keep_cancelled
from mcpcp.state.events import Event, Keep, left_to_tell

KEPT: Final = 30 * 60
"""Seconds that a session's events are kept after the last one."""
MOST_EVENTS: Final = 1000
MOST_WAITING: Final = 10_000
"""Events that wait for Redis at most; while it is away the oldest are lost."""
_BATCH: Final = 200
_AGAIN: Final = 1.0


class RedisEvents:
    """Each session's events in a Redis stream, written soon after they were sent."""

    def __init__(self, store: Redis) -> None:
        self._store = store
        self._waiting: deque[tuple[str, Event]] = deque(maxlen=MOST_WAITING)
        self._some_wait = asyncio.Event()

    def keeper(self, session: str, owner: Identity) -> Keep:
        """What takes the events of a session."""
        name = _name(session, owner)

        def keep(event: Event) -> None:
            self._waiting.append((name, event))
            self._some_wait.set()

        return keep

    async def replay(self, session: str, owner: Identity, last_event_id: str) -> list[bytes] | None:
        """See `left_to_tell`; somebody else's session is not found, as if there were none."""
        try:
            found = await self._store.waiting.xrange(_name(session, owner))
        except AWAY:
            return None
        return left_to_tell((_from_fields(fields) for _, fields in found), last_event_id)

    async def run(self) -> None:
        """Write down what was sent, until cancelled."""
        while True:
            await self._some_wait.wait()
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            try:
                await self._write(batch)
            except AWAY:  # the beat tells of it
                self._waiting.extendleft(reversed(batch[: MOST_WAITING - len(self._waiting)]))
                await asyncio.sleep(_AGAIN)
            keep_cancelled()
            if not self._waiting:
                self._some_wait.clear()

    async def _write(self, batch: list[tuple[str, Event]]) -> None:
        async with self._store.waiting.pipeline(transaction=False) as commands:
            for name, event in batch:
                commands.xadd(name, _to_fields(event), maxlen=MOST_EVENTS, approximate=True)
            for name in {name for name, _ in batch}:
                commands.expire(name, KEPT)
            await commands.execute()


def _name(session: str, owner: Identity) -> str:
    digest = hashlib.sha256(f"{session} {owner!r}".encode()).hexdigest()[:32]
    return f"{PREFIX}events:{digest}"


def _to_fields(event: Event) -> dict[str, Any]:
    return {
        "stream": event.stream,
        "number": event.number,
        "data": event.data,
        "call": event.call,
        "last": int(event.last),
    }


def _from_fields(fields: dict[str, str]) -> Event:
    return Event(
        stream=int(fields["stream"]),
        number=int(fields["number"]),
        data=fields["data"].encode(),
        call=fields["call"],
        last=fields["last"] == "1",
    )
