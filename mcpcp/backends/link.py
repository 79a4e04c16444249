"""Link: a client's own session with one server, in that client's name.

Opened at first use. After the server's restart it opens again, introduces the client as it
introduced itself, and renews log level and subscriptions: the client does not notice. A session
that is a process of its own rests while it is idle, and opens again in the same way.
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
from mcpcp.backends.places import NoPlace
from mcpcp.catalog import VARYING
from mcpcp.errors import DeadlineExceeded, McpcpError
from mcpcp.jsonrpc import Message, RpcError
from mcpcp.peer import Back
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
        self._wanted = asyncio.Event()
        self.line = Line(backend.server, backend.line.hopeless, self._wanted.set)
        self.subscriptions: set[str] = set()
        self._owner = owner
        self._lists = False
        self._stale = asyncio.Event()
        self._rests = False

    def want_list(self) -> None:
        """List what the server shows to this client: it may be more than it shows to us."""
        if not self._lists:
            self._lists = True
            self._stale.set()
            self._wanted.set()

    # Its process, where it has one to itself.

    @property
    def idle_since(self) -> float | None:
        """See Holder."""
        connection = self.line.connection
        return None if connection is None or self.line.waiting else connection.idle_since

    @property
    def watches(self) -> bool:
        """See Holder."""
        return bool(self.subscriptions)

    def rest(self) -> None:
        """See Holder; nothing may be in flight."""
        connection = self.line.connection
        if connection is not None:
            self.backend.variants.leave(self)
            self._begin_rest("its process was idle and is started again")
            connection.drop()

    def _begin_rest(self, reason: str) -> None:
        self._rests = True
        self._wanted.clear()
        self.line.take_out(reason)

    async def _rest_when_idle(self, connection: Connection) -> None:
        """Rest once nobody has used the process for long; who follows a resource uses it."""
        idle = self.backend.server.session_idle
        if idle is None or not self.backend.has_places:
            return
        while True:
            since = None if self.watches else self.idle_since
            now = asyncio.get_running_loop().time()
            if since is not None and since + idle <= now:
                logger.info("%s: the process of an idle client rests", self.backend.server.name)
                self.rest()
                return
            await asyncio.sleep(idle if since is None else since + idle - now)

    # The owner task.

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
            reason = await self._attempt()
            if self._rests:
                await self._wanted.wait()
                self._rests = False
                continue
            self.line.take_out(reason)
            if asyncio.get_running_loop().time() - began > LAST_RETRY:
                delay = FIRST_RETRY
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self.backend.moved.wait()
            delay = min(delay * 2, LAST_RETRY)

    async def _attempt(self) -> str:
        """One connection, from its opening to its end; why it ended."""
        backend = self.backend
        connection = Connection(backend.reach, self._owner.hello, self)
        place = backend.places.take(self) if backend.has_places else contextlib.nullcontext()
        try:
            async with place:
                await connection.run(self._use)
        except NoPlace as error:
            if not self.line.waiting:  # who wanted it has given up
                self._begin_rest(str(error))
            return str(error)
        except McpcpError as error:
            return str(error)
        except Exception:
            name = backend.server.name
            logger.exception("a session with %s failed in an unforeseen way", name)
            return "internal error: the gateway's log has the details"
        return "the connection has ended"

    async def _use(self, connection: Connection) -> None:
        for method, params in self._renewals():
            with contextlib.suppress(RpcError):
                await connection.request(method, params, HANDSHAKE_TIMEOUT)
        self.line.put(connection)
        if self._lists:
            self._stale.set()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._rest_when_idle(connection))
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
