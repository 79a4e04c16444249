"""Revocations on Redis: each gateway has a copy, renewed four times a second.

A Redis that is away leaves the last copy in force for GRACE seconds; after that nobody knows what
was revoked meanwhile, and every token is refused until it is back. One that lost its memory gets
the revocations again from the gateways.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from typing import Final

from mcpcp.errors import TokenError
from mcpcp.state.connection import PREFIX, Redis

GRACE: Final = 30.0
"""Seconds that a copy is trusted without news."""

VERSION: Final = f"{PREFIX}revoked:version"
"""Another random word after every change."""
_REVOKED: Final = f"{PREFIX}revoked"
"""A sorted set: token ids by the epoch seconds until which they are kept."""


class RedisRevocations:
    """Revoked token ids; the constructor needs Redis, and raises Unavailable without it."""

    def __init__(self, store: Redis, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._until: dict[str, float] = {}
        self._version: str | None = None
        self._heard = time.monotonic()
        with store.needed("revoked tokens can't be read"):
            version = store.sync.get(VERSION)
            self._take(store.sync.zrange(_REVOKED, 0, -1, withscores=True), version)

    def is_revoked(self, token_id: str) -> bool:
        """See Revocations."""
        if time.monotonic() - self._heard > GRACE:
            raise TokenError(
                "state_away",
                f"revoked tokens could not be looked up at {self._store.place} for"
                f" {GRACE:.0f} s, so no token is accepted: start that Redis",
            )
        return token_id in self._until

    def revoke(self, token_id: str, until: float) -> None:
        """See Revocations; every gateway refuses it half a second later."""
        with self._store.needed("the token is not revoked"):
            self._add({token_id: until})
            self._store.sync.zremrangebyscore(_REVOKED, "-inf", f"({self._clock()}")
        self._until[token_id] = until

    async def follow(self, version: str | None) -> None:
        """Take news over, where Redis now has `version`; for the gateway's beat."""
        if version != self._version:
            found = await self._store.waiting.zrange(_REVOKED, 0, -1, withscores=True)
            self._take(found, version)
            missing = self._missing(dict(found))
            if missing:
                await self._store.waiting.zadd(_REVOKED, missing)
                await self._store.waiting.set(VERSION, secrets.token_hex(8))
        self._heard = time.monotonic()

    def _add(self, records: Mapping[str, float]) -> None:
        with self._store.sync.pipeline(transaction=True) as commands:
            commands.zadd(_REVOKED, dict(records))
            commands.set(VERSION, secrets.token_hex(8))
            commands.execute()

    def _take(self, found: list[tuple[str, float]], version: str | None) -> None:
        """What was revoked stays so until its time has come, whatever Redis says."""
        now = self._clock()
        kept = {token: until for token, until in self._until.items() if until >= now}
        self._until = {**kept, **dict(found)}
        self._version = version

    def _missing(self, found: Mapping[str, float]) -> dict[str, float]:
        now = self._clock()
        return {t: until for t, until in self._until.items() if t not in found and until >= now}
