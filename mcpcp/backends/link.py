"""Link: a client's own session with one server, in that client's name.

Opened at first use. After the server's restart it opens again, introduces the client as it
introduced itself, and renews log level and subscriptions: the client does not notice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any, Final, Protocol

from mcpcp.backends.backend import Backend
from mcpcp.backends.connection import HANDSHAKE_TIMEOUT, Connection, Hello
from mcpcp.backends.line import Line
from mcpcp.backends.offering import CHANGES, list_offer
from mcpcp.catalog import VARYING
from mcpcp.errors import DeadlineExceeded, McpcpError
from mcpcp.jsonrpc import Back, Message, RpcError
from mcpcp.profiles import Profile

logger = logging.getLogger(__name__)

FIRST_RETRY: Final = 0.02
LAST_RETRY: Final = 2.0
_DEBOUNCE: Final = 0.05


class Owner(Protocol):
    """The client whose link it is."""

    hello: Hello
    profile: Profile
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
        self._lists = False
        self._stale = asyncio.Event()

    def want_list(self) -> None:
        """List what the server shows to this client: it may be more than it shows to us."""
        if not self._lists:
            self._lists = True
            self._stale.set()

    async def run(self) -> None:
        """Keep a session open until cancelled."""
        try:
            await self._keep_open()
        finally:
            self.backend.variants.leave(self)

    async def _keep_open(self) -> None:
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
        if self._lists:
            self._stale.set()
        while True:
            await self._stale.wait()
            self._stale.clear()
            await self._list(connection)
            await asyncio.sleep(_DEBOUNCE)

    async def _list(self, connection: Connection) -> None:
        variants, profile = self.backend.variants, self._owner.profile
        try:
            variants.put(profile, await list_offer(connection, VARYING), self)
        except (RpcError, DeadlineExceeded) as error:
            logger.info("%s lists nothing to a client: %s", self.backend.server.name, error)
            variants.give_up(profile)

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
            if self._lists:
                self._stale.set()
        else:
            self._owner.on_server_notification(self.backend.server.name, message)

    async def on_request(self, message: Message, back: Back | None) -> Any:
        """See Inbound."""
        return await self._owner.on_server_request(self.backend.server.name, message, back)
