"""The way to the database, which may be away: the server stays up, and says so.

Importing the driver takes 0.3 s, so it is done in a thread, while the server already serves.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio
from anyio import to_thread

from servers.plumbing.health import Health
from servers.shop.errors import Away, DatabaseTrouble

if TYPE_CHECKING:
    from servers.shop.store import Store

logger = logging.getLogger(__name__)

PATIENCE: Final = 4.0
"""Seconds that a call waits at least for a database that was not reached yet."""

PAUSE: Final = 0.25
PING_EVERY: Final = 2.0

Job = Callable[["Store"], Coroutine[Any, Any, None]]
"""What a server does beside its calls, as long as the database is there."""


class Connection:
    """Keeps a store open, and opens it again; `running` is its life."""

    def __init__(self, uri: str, database: str) -> None:
        self._uri = uri
        self._database = database
        self._store: Store | None = None
        self._opened = anyio.Event()
        self._tried = anyio.Event()
        self._health = Health("degraded", "connecting to the shop's database")

    def health(self) -> Health:
        """Whether the database answered lately."""
        return self._health

    async def store(self) -> Store:
        """The store, waited for a little while; Away where the database was never reached.

        An attempt under way is waited for: a slow machine is no database that is away.
        """
        if self._store is not None:
            return self._store
        with anyio.move_on_after(PATIENCE):
            await self._opened.wait()
        if self._store is None:
            await self._tried.wait()
        if self._store is None:
            raise Away("the shop's database can't be reached. Try again in a minute.")
        return self._store

    @asynccontextmanager
    async def running(self, *jobs: Job) -> AsyncIterator[None]:
        """Connect in the background, and do the jobs, while the context is open."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._stay_connected, jobs)
            yield
            tasks.cancel_scope.cancel()

    async def _stay_connected(self, jobs: tuple[Job, ...]) -> None:
        driver = await to_thread.run_sync(importlib.import_module, "servers.shop.store")
        while True:
            try:
                async with driver.open_store(self._uri, self._database) as store:
                    await self._serve(store, jobs)
            except DatabaseTrouble as error:
                self._note(str(error))
            self._tried.set()
            await anyio.sleep(PAUSE)
            self._tried = anyio.Event()

    async def _serve(self, store: Store, jobs: tuple[Job, ...]) -> None:
        self._store = store
        self._opened.set()
        self._tried.set()
        self._note(None)
        async with anyio.create_task_group() as tasks:
            for job in jobs:
                tasks.start_soon(job, store)
            await self._watch(store)

    async def _watch(self, store: Store) -> None:
        """Ping for ever; a database that comes back may be another one, with no indexes yet."""
        while True:
            await anyio.sleep(PING_EVERY)
            try:
                await store.ping()
                if self._health.status != "ok":
                    await store.prepare()
            except DatabaseTrouble as error:
                self._note(str(error))
            else:
                self._note(None)

    def _note(self, trouble: str | None) -> None:
        health = Health.without(trouble)
        if health.status != self._health.status:
            logger.log(
                logging.WARNING if trouble else logging.INFO,
                trouble or "the shop's database is there",
            )
        self._health = health
