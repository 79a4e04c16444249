"""Line: a connection that comes back; requests wait for it, bounded, while it is away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from mcpcp.backends.connection import Connection
from mcpcp.config import ServerConfig
from mcpcp.errors import Interrupted, Unavailable
from mcpcp.jsonrpc import Message
from mcpcp.peer import Back
from mcpcp.verbatim import whole

RESTART_WAIT: Final = 30.0
"""Seconds a request waits at most for a server that is being restarted."""
TRY_AGAIN: Final = 0.1
"""Seconds until a request that was not delivered is tried on the same connection again."""


class Line:
    """What requests are sent on; its owner puts each new connection in and takes the dead out.

    `hopeless` says why waiting is in vain, None while it is not; `wanted` is called when a request
    finds no connection.
    """

    def __init__(
        self,
        server: ServerConfig,
        hopeless: Callable[[], str | None],
        wanted: Callable[[], None] = lambda: None,
    ) -> None:
        self.server = server
        self.connection: Connection | None = None
        self.error: str | None = None
        self.hopeless = hopeless
        self.waiting = 0
        """Requests that wait for a connection."""
        self._wanted = wanted
        self._loop = asyncio.get_running_loop()
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

    async def request(self, method: str, params: Message) -> Any:
        """Send a request and wait for what its result says; see `relay`."""
        return whole(await self.relay(method, params))

    async def relay(
        self,
        method: str,
        params: Message,
        *,
        back: Back | None = None,
        repeatable: bool = False,
    ) -> Any:
        """Send a request and wait for its result, which may be Verbatim, at most the server's
        `timeout` without progress.

        A request that certainly was not delivered is sent to the next connection; one that was is
        repeated only where `repeatable`. Raises RpcError, Unavailable, Interrupted,
        DeadlineExceeded.
        """
        give_up_at = self._loop.time() + min(self.server.timeout, RESTART_WAIT)
        try:
            return await self._deliver(method, params, back, give_up_at)
        except Interrupted as error:
            if not repeatable:
                raise _unsure(error) from None
            first = error
        try:
            return await self._deliver(method, params, back, give_up_at)
        except Unavailable:
            raise _unsure(first) from None

    async def _deliver(
        self, method: str, params: Message, back: Back | None, give_up_at: float
    ) -> Any:
        """Send a request to one connection after the other until one has taken it."""
        while True:
            connection = self.connection or await self.wait(give_up_at)
            try:
                return await connection.relay(method, params, self.server.timeout, back)
            except Interrupted:
                raise
            except Unavailable as error:
                await self._before_retry(connection, give_up_at, str(error))

    async def wait(self, give_up_at: float | None = None) -> Connection:
        """The connection, as soon as there is one; raises Unavailable at that loop time."""
        if give_up_at is None:
            give_up_at = self._loop.time() + RESTART_WAIT
        self.waiting += 1
        try:
            while self.connection is None:
                if (reason := self.hopeless()) is not None:
                    raise self._unavailable(reason)
                self._wanted()
                async with asyncio.timeout_at(give_up_at):
                    await self._ready.wait()
        except TimeoutError:
            raise self._unavailable(self.error) from None
        finally:
            self.waiting -= 1
        return self.connection

    def wake(self) -> None:
        """Let those who wait look whether it is hopeless."""
        if self.connection is None:
            self._ready.set()
            self._ready = asyncio.Event()

    async def _before_retry(self, failed: Connection, give_up_at: float, reason: str) -> None:
        """Let the owner notice that a connection is dead; one that is not is tried again.

        Without a session there is nothing to lose, and so nothing that would tell of a death.
        """
        loop = self._loop
        again_at = min(loop.time() + TRY_AGAIN, give_up_at)
        while self.connection is failed and loop.time() < again_at:  # noqa: ASYNC110  (it is short)
            await asyncio.sleep(0.01)
        if loop.time() >= give_up_at:
            raise self._unavailable(self.error or reason)

    def _unavailable(self, reason: str | None) -> Unavailable:
        because = f": {reason}" if reason else ""
        return Unavailable(f"server {self.server.name} is not available for now{because}")


def _unsure(error: Interrupted) -> Interrupted:
    return Interrupted(f"{error}: whether it took effect is not known")
