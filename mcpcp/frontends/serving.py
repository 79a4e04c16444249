"""The HTTP server: it accepts connections, ends those that are overdue, and drains them all."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Final

from mcpcp.frontends.connection import Application, HttpConnection

BACKLOG: Final = 1024
_LOOK_EVERY: Final = 1.0
"""Seconds between two looks for overdue connections: one timer for all of them."""


class HttpServer:
    """Serves `application`, in `tasks`."""

    def __init__(self, application: Application, tasks: asyncio.TaskGroup) -> None:
        self.application = application
        self._tasks = tasks
        self._connections: set[HttpConnection] = set()
        self._listener: asyncio.Server
        self._none_left = asyncio.Event()

    @contextlib.asynccontextmanager
    async def listening(self, listener: socket.socket) -> AsyncIterator[None]:
        """Accept while this is open; then cut off whatever is left."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            lambda: HttpConnection(self), sock=listener, backlog=BACKLOG
        )
        looking = self._tasks.create_task(self._cut_overdue())
        try:
            yield
        finally:
            looking.cancel()
            self._listener.close()
            for connection in list(self._connections):
                connection.cut()

    async def drain(self) -> None:
        """Accept no more, and wait until what was asked for is answered."""
        self._listener.close()
        for connection in list(self._connections):
            connection.finish()
        while self._connections:
            self._none_left.clear()
            await self._none_left.wait()

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """See connection.Owner."""
        return self._tasks.create_task(work)

    def opened(self, connection: HttpConnection) -> None:
        """See connection.Owner."""
        self._connections.add(connection)

    def ended(self, connection: HttpConnection) -> None:
        """See connection.Owner."""
        self._connections.discard(connection)
        if not self._connections:
            self._none_left.set()

    async def _cut_overdue(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            now = loop.time()
            for connection in [c for c in self._connections if c.deadline <= now]:
                connection.cut()
