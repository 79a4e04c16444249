"""Line: a connection that comes back; requests wait for it, bounded, while it is away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from mcpcp.backends.connection import Connection
from mcpcp.config import ServerConfig
from mcpcp.errors import Interrupted, Unavailable
from mcpcp.jsonrpc import Back, Message

RESTART_WAIT: Final = 15.0
"""Seconds a request waits at most for a server that is being restarted."""
MOST_ATTEMPTS: Final = 5
"""Connections a request is tried on at most: a server that takes none has to be believed."""


class Line:
    """What requests are sent on; its owner puts each new connection in and takes the dead out.

    `hopeless` says why waiting is in vain, None while it is not.
    """

    def __init__(self, server: ServerConfig, hopeless: Callable[[], str | None]) -> None:
        self.server = server
        self.connection: Connection | None = None
        self.error: str | None = None
        self.hopeless = hopeless
        self._ready = asyncio.Event()

    def put(self, connection: Connection) -> None:
        """A connection is up."""
        self.connection = connection
        self.error = None
        self._ready.set()

    def take_out(self, reason: str) -> None:
        """It is down, for `reason`."""
        self.connection = None
        self.error = reason
        self._ready.clear()

    async def request(
        self,
        method: str,
        params: Message,
        *,
        back: Back | None = None,
        repeatable: bool = False,
    ) -> Any:
        """Send a request and wait for its result, at most the server's `timeout` without progress.

        A request that certainly was not delivered is sent to the next connection; one that was is
        repeated only where `repeatable`. Raises RpcError, Unavailable, Interrupted,
        DeadlineExceeded.
        """
        timeout = self.server.timeout
        give_up_at = asyncio.get_running_loop().time() + min(timeout, RESTART_WAIT)
        for attempt in range(1, MOST_ATTEMPTS + 1):
            connection = self.connection or await self.wait(give_up_at)
            try:
                return await connection.request(method, params, timeout, back)
            except Interrupted:
                if not repeatable:
                    raise
                repeatable = False
            except Unavailable:
                if attempt == MOST_ATTEMPTS:
                    raise
                connection.drop()
            await self._wait_for_other(connection, give_up_at)
        raise self._unavailable(self.error)

    async def wait(self, give_up_at: float | None = None) -> Connection:
        """The connection, as soon as there is one; raises Unavailable at that loop time."""
        if give_up_at is None:
            give_up_at = asyncio.get_running_loop().time() + RESTART_WAIT
        while self.connection is None:
            if (reason := self.hopeless()) is not None:
                raise self._unavailable(reason)
            try:
                async with asyncio.timeout_at(give_up_at):
                    await self._ready.wait()
            except TimeoutError:
                raise self._unavailable(self.error) from None
        return self.connection

    def wake(self) -> None:
        """Let those who wait look whether it is hopeless."""
        if self.connection is None:
            self._ready.set()
            self._ready = asyncio.Event()

    async def _wait_for_other(self, dead: Connection, give_up_at: float) -> None:
        """Give the owner its chance to notice that a connection is dead."""
        loop = asyncio.get_running_loop()
        while self.connection is dead:
            if loop.time() >= give_up_at:
                raise self._unavailable(self.error)
            await asyncio.sleep(0.01)

    def _unavailable(self, reason: str | None) -> Unavailable:
        because = f": {reason}" if reason else ""
        return Unavailable(f"server {self.server.name} is not available for now{because}")
