"""Link: a client's own session with one server, in that client's name.

Opened at first use. After the server's restart it opens again, introduces the client as it
introduced itself, and renews log level and subscriptions: the client does not notice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any, Final, Protocol

from mcpcp.backends.backend import CHANGES, Backend
from mcpcp.backends.connection import HANDSHAKE_TIMEOUT, Connection, Hello
from mcpcp.backends.line import Line
from mcpcp.errors import McpcpError
from mcpcp.jsonrpc import Back, Message, RpcError

logger = logging.getLogger(__name__)

FIRST_RETRY: Final = 0.02
LAST_RETRY: Final = 2.0


class Owner(Protocol):
    """The client whose link it is."""

    hello: Hello
    log_level: str | None

    def on_server_notification(self, server: str, message: Message) -> None:
        """The server said something that belongs to no request."""

    async def on_server_request(self, server: str, message: Message, back: Back | None) -> Any:
        """The server asks the client; the client's result."""


class Link:
    """`run` is its owner task; `subscriptions` are the URIs, as the server knows them."""

    def __init__(self, backend: Backend, owner: Owner) -> None:
        self.backend = backend
        self.line = Line(backend.server, backend.line.hopeless)
        self.subscriptions: set[str] = set()
        self._owner = owner

    async def run(self) -> None:
        """Keep a session open until cancelled."""
        delay = FIRST_RETRY
        while True:
            await self.backend.until_allowed()
            began = asyncio.get_running_loop().time()
            backend = self.backend
            connection = Connection(
                backend.server, backend.credential, self._owner.hello, self, backend.declared
            )
            try:
                with backend.session_place():
                    await connection.run(self._use)
            except McpcpError as error:
                self.line.take_out(str(error))
            except Exception:
                name = backend.server.name
                logger.exception("a session with %s failed in an unforeseen way", name)
                self.line.take_out("internal error: the gateway's log has the details")
            if asyncio.get_running_loop().time() - began > LAST_RETRY:
                delay = FIRST_RETRY
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self.backend.moved.wait()
            delay = min(delay * 2, LAST_RETRY)

    async def _use(self, connection: Connection) -> None:
        for method, params in self._renewals():
            with contextlib.suppress(RpcError):
                await connection.request(method, params, HANDSHAKE_TIMEOUT)
        self.line.put(connection)
        await asyncio.Event().wait()

    def _renewals(self) -> list[tuple[str, Message]]:
        renewals: list[tuple[str, Message]] = []
        if self._owner.log_level is not None and "logging" in self._capabilities():
            renewals.append(("logging/setLevel", {"level": self._owner.log_level}))
        renewals += [("resources/subscribe", {"uri": uri}) for uri in sorted(self.subscriptions)]
        return renewals

    def _capabilities(self) -> Message:
        return self.backend.offer.capabilities if self.backend.offer else {}

    def on_notification(self, message: Message) -> None:
        """See Inbound; what has changed for one client has for all."""
        if message["method"] in CHANGES:
            self.backend.announce(message["method"])
        else:
            self._owner.on_server_notification(self.backend.server.name, message)

    async def on_request(self, message: Message, back: Back | None) -> Any:
        """See Inbound."""
        return await self._owner.on_server_request(self.backend.server.name, message, back)
