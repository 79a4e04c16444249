"""SharedState: what makes the gateways that have one Redis act as one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

from mcpcp.state import pins, revocations
from mcpcp.state.connection import AWAY, Redis, keep_cancelled
from mcpcp.state.eventstore import RedisEvents
from mcpcp.state.peers import ALIVE, LEASE, Peers
from mcpcp.state.pins import RedisPins
from mcpcp.state.rates import RedisRates
from mcpcp.state.revocations import GRACE, RedisRevocations

logger = logging.getLogger(__name__)

BEAT: Final = 0.25
"""Seconds between two looks at what other processes changed."""


class SharedState:
    """Everything that one gateway keeps on Redis; raises Unavailable where there is none."""

    def __init__(self, url: str, port: int) -> None:
        self._store = Redis(url)
        self.revocations = RedisRevocations(self._store)
        self.pins = RedisPins(self._store)
        self.peers = Peers(self._store, port)
        self.rates = RedisRates(self._store, self.peers.instance)
        self.events = RedisEvents(self._store)
        self._away = False

    async def run(self) -> None:
        """Follow what others do and tell that we are here, until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.rates.run())
                tasks.create_task(self.events.run())
                while True:
                    await self._try_beat()
                    await asyncio.sleep(BEAT)
        finally:
            with contextlib.suppress(*AWAY):
                self._store.sync.delete(ALIVE + self.peers.instance)
            await self._store.close()

    async def _try_beat(self) -> None:
        try:
            await self._beat()
        except AWAY as error:
            keep_cancelled()
            if not self._away:
                logger.error(  # noqa: TRY400 - the message says it all
                    "%s; each gateway limits calls for itself, and after %d s without it no token"
                    " is accepted",
                    self._store.absence(error),
                    GRACE,
                )
            self._away = True
        else:
            keep_cancelled()
            if self._away:
                logger.info("the state at %s answers again", self._store.place)
            self._away = False

    async def _beat(self) -> None:
        async with self._store.waiting.pipeline(transaction=False) as commands:
            commands.get(revocations.VERSION)
            commands.get(pins.VERSION)
            commands.set(ALIVE + self.peers.instance, self.peers.address, ex=LEASE)
            revoked, pinned, _ = await commands.execute()
        await self.revocations.follow(revoked)
        self.pins.version = pinned
