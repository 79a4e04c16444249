"""ClientSession: a legacy client, its own sessions with servers, and the way back to it.

Above: the frontends open one a client and bring its answers. Below: `backends.link`, one a server,
opened at first use. A server's requests come through here to the client, and its answers back.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import Any, Final, Protocol

from mcpcp.backends.backend import Backend
from mcpcp.backends.connection import Hello
from mcpcp.backends.link import Link
from mcpcp.errors import DeadlineExceeded
from mcpcp.jsonrpc import METHOD_NOT_FOUND, Message, Notify, RpcError, notification
from mcpcp.listing import Shown
from mcpcp.peer import Back
from mcpcp.profiles import BASE, profile_of
from mcpcp.registry import Registry

logger = logging.getLogger(__name__)

ANSWER_TIMEOUT: Final = 3600.0
"""Seconds a server may wait for a client's answer: a person may be asked."""
MOST_ASKED: Final = 200


class SessionBack:
    """The way back for one request: on `send`, the stream that its answer will come on."""

    __slots__ = ("_send", "_session")

    def __init__(self, session: ClientSession, send: Notify) -> None:
        self._session = session
        self._send = send

    def notify(self, message: Message) -> None:
        """See Back."""
        self._send(message)

    async def ask(self, method: str, params: Message) -> Any:
        """See Back."""
        return await self._session.ask(method, params, self._send)


class Ids(Protocol):
    """Who makes ids that name their gateway, where there are several."""

    def id(self) -> str:
        """A new id."""


class ClientSession:
    """One legacy client; `push` takes what belongs to none of its requests."""

    def __init__(self, registry: Registry, push: Notify, ids: Ids | None = None) -> None:
        self.id = ids.id() if ids else secrets.token_hex(16)
        self.hello = Hello()
        self.profile = BASE
        self.shown: Shown | None = None
        self.log_level: str | None = None
        self._registry = registry
        self._push = push
        self._links: dict[str, Link] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._watched: dict[tuple[str, str], Callable[[], None]] = {}
        self._asked: dict[str, asyncio.Future[Any]] = {}
        self._last_ask = 0
        self._progress: dict[Any, str] = {}

    def close(self) -> None:
        """End its sessions with servers; what servers asked it is answered with an error."""
        for task in self._tasks.values():
            task.cancel()
        for stop in self._watched.values():
            stop()
        for future in self._asked.values():
            future.cancel()

    def introduce(self, hello: Hello) -> None:
        """Take how the client introduced itself: it is how we will, in its name."""
        self.hello = hello
        self.profile = profile_of(hello.capabilities)

    # Its sessions with servers.

    def link(self, backend: Backend) -> Link:
        """The client's own session with that server; its opening goes on in the background."""
        name = backend.server.name
        link = self._links.get(name)
        if link is None or link.backend is not backend:
            if name in self._tasks:
                self._tasks.pop(name).cancel()
            link = self._links[name] = Link(backend, self)
            self._tasks[name] = self._registry.start(link.run())
        return link

    def open_links(self) -> list[Link]:
        """Those that were used so far."""
        return list(self._links.values())

    async def subscribe(self, backend: Backend, uri: str) -> None:
        """Follow a resource on a connection that others share."""
        key = (backend.server.name, uri)
        if key not in self._watched:
            told = lambda message: self.on_server_notification(backend.server.name, message)  # noqa: E731
            self._watched[key] = await backend.follow_resource(uri, told)

    def unsubscribe(self, backend: Backend, uri: str) -> None:
        """The reverse of `subscribe`."""
        stop = self._watched.pop((backend.server.name, uri), None)
        if stop is not None:
            stop()

    # What servers say to the client.

    def on_server_notification(self, server: str, message: Message) -> None:
        """See link.Owner."""
        self._push(self._registry.catalog.rewritten(server, message))

    async def on_server_request(self, server: str, message: Message, back: Back | None) -> Any:
        """See link.Owner; the question goes where the request that caused it will be answered."""
        params = message.get("params") or {}
        token = (params.get("_meta") or {}).get("progressToken")
        if not isinstance(token, str | int):
            token = None
        if token is not None:
            self._progress[token] = server
        try:
            return await (back or SessionBack(self, self._push)).ask(message["method"], params)
        finally:
            self._progress.pop(token, None)

    async def ask(self, method: str, params: Message, send: Notify) -> Any:
        """Ask the client on `send`; its result. Raises RpcError with the client's own error."""
        if len(self._asked) >= MOST_ASKED:
            raise RpcError(-32000, "the client has too many questions to answer already")
        self._last_ask += 1
        request_id = f"mcpcp-{self._last_ask}"
        future = self._asked[request_id] = asyncio.get_running_loop().create_future()
        send({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                return await future
        except TimeoutError:
            raise DeadlineExceeded("the client did not answer") from None
        except asyncio.CancelledError:
            send(notification("notifications/cancelled", {"requestId": request_id}))
            raise
        finally:
            del self._asked[request_id]

    # What the client says to servers.

    def receive_answer(self, message: Message) -> None:
        """Take the client's answer to something that was asked."""
        future = self._asked.get(str(message.get("id")))
        if future is None or future.done():
            logger.info("ignored an answer to id %.100r, which nobody waits for", message.get("id"))
        elif "error" in message:
            future.set_exception(RpcError.of(message["error"]))
        else:
            future.set_result(message.get("result"))

    def receive_notification(self, message: Message) -> None:
        """Pass a notification on: progress to who asked, anything else to all its servers."""
        params = message.get("params")
        method = message["method"]
        server = None
        if method == "notifications/progress" and isinstance(params, dict):
            server = self._progress.get(params.get("progressToken"))
            if server is None:
                return
        for name, link in self._links.items():
            if link.line.connection is not None and server in (None, name):
                link.line.connection.notify(method, params)


def way_back(caller: HasSession, send: Notify) -> Back:
    """The way back for a caller's request, on the stream that its answer will come on."""
    return NoWayBack(send) if caller.session is None else SessionBack(caller.session, send)


class HasSession(Protocol):
    """Who may have a session, and so be asked."""

    @property
    def session(self) -> ClientSession | None:
        """The session, in the legacy era."""


class NoWayBack:
    """Where a client can't be asked, only told."""

    def __init__(self, send: Notify) -> None:
        self._send = send

    def notify(self, message: Message) -> None:
        """See Back."""
        self._send(message)

    async def ask(self, method: str, params: Message) -> Any:
        """See Back."""
        raise RpcError(METHOD_NOT_FOUND, f"Method not found: {method}")
