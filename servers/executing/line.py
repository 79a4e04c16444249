"""A session with the sandbox server that calls share, and what becomes of each call on its wire.

Above: `forwarding`. Below: the SDK's client. One request
that fails would end that client's transport with all other calls on it, so a failure of the network
comes to the SDK as an answer, and to the call as what its `Attempt` saw.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

import anyio
import httpx2
from anyio.abc import TaskStatus
from mcp.client.client import Client
from mcp.client.session import ClientSession
from mcp.client.streamable_http import streamable_http_client

from servers.executing.route import Sandbox

logger = logging.getLogger(__name__)

_NOT_FOUND, _FAILED, _BAD_GATEWAY, _NOT_NOW = 404, 500, 502, 503


class NotNow(httpx2.TransportError):
    """The server is there and takes nothing at the moment: it starts or stops."""


@dataclass(slots=True)
class Attempt:
    """What is known of one call's way to the server.

    `sent`: something of it may have been read. `turned_away`: the server said that it did not take
    it. `failure`: why there was no answer, or not all of it.
    """

    sent: bool = False
    turned_away: bool = False
    forgotten: bool = False
    failure: str | None = None

    @property
    def in_vain(self) -> bool:
        """Whether it is certain that nothing came of it."""
        return self.turned_away or not self.sent

    async def trace(self, event: str, _: object) -> None:
        """Told by the HTTP client of each step."""
        if event.endswith("send_request_headers.started"):
            self.sent = True

    def note(self, response: httpx2.Response) -> None:
        """An answer's head."""
        status = response.status_code
        self.forgotten = status == _NOT_FOUND  # the session, by a server that was started anew
        busy = status == _NOT_NOW and "retry-after" in response.headers
        self.turned_away = self.forgotten or busy
        if status >= _FAILED:
            self.failure = f"it answered with HTTP {status}"


_attempt: ContextVar[Attempt | None] = ContextVar("attempt", default=None)


@contextmanager
def watched(attempt: Attempt) -> Iterator[None]:
    """What is sent inside belongs to this attempt: the SDK sends it in the context of its call."""
    token = _attempt.set(attempt)
    try:
        yield
    finally:
        _attempt.reset(token)


class _Wire(httpx2.AsyncClient):
    """An HTTP client that tells attempts what it sees, and raises where there is none to tell."""

    async def send(self, request: httpx2.Request, **how: Any) -> httpx2.Response:
        attempt = _attempt.get()
        if attempt is None:  # a handshake
            return await self._greeted(request, **how)
        try:
            # an answer, whatever it says: who has just been killed may still take connections
            await super().send(self.build_request("OPTIONS", request.url))
            request.extensions = {**request.extensions, "trace": attempt.trace}
            response = await super().send(request, **how)
        except httpx2.TransportError as e:
            attempt.failure = str(e) or type(e).__name__
            return httpx2.Response(_BAD_GATEWAY, request=request)
        attempt.note(response)
        if isinstance(response.stream, httpx2.AsyncByteStream):
            response.stream = _Body(response.stream, attempt)
        return response

    async def _greeted(self, request: httpx2.Request, **how: Any) -> httpx2.Response:
        response = await super().send(request, **how)
        if response.status_code == _NOT_NOW:
            await response.aclose()
            raise NotNow("it is starting or stopping")
        return response


class _Body(httpx2.AsyncByteStream):
    """An answer's body, which ends where its connection breaks."""

    def __init__(self, body: httpx2.AsyncByteStream, attempt: Attempt) -> None:
        self._body = body
        self._attempt = attempt

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._body:
                yield chunk
        except httpx2.TransportError as e:
            self._attempt.failure = str(e) or type(e).__name__

    async def aclose(self) -> None:
        await self._body.aclose()


@dataclass(slots=True)
class Line:
    """An open session; one that is retired takes no more calls and ends with the last it has."""

    session: ClientSession
    retired: bool = False
    _users: int = 0
    _unused: anyio.Event = field(default_factory=anyio.Event)

    @contextmanager
    def used(self) -> Iterator[ClientSession]:
        """The session, which stays open as long as the context lasts."""
        self._users += 1
        try:
            yield self.session
        finally:
            self._users -= 1
            self._look()

    def retire(self) -> None:
        """Let it end."""
        self.retired = True
        self._look()

    def _look(self) -> None:
        if self.retired and not self._users:
            self._unused.set()

    async def ended(self) -> None:
        """When it is retired and nobody uses it."""
        await self._unused.wait()


async def keep(sandbox: Sandbox, connect_in: float, *, task_status: TaskStatus[Line]) -> None:
    """Open a line and hold it until it has ended; `connect_in` is seconds for each connection.

    Raises what opening it raises, nothing later: this runs beside others.
    """
    line: Line | None = None
    try:
        async with (
            _Wire(
                headers=dict(sandbox.headers),
                timeout=httpx2.Timeout(connect_in, read=None),
                limits=_LIMITS,
                verify=_trust(),
            ) as http,
            Client(
                # the sandbox server bounds its answers itself: an image may have several megabytes
                streamable_http_client(sandbox.url, http_client=http, max_sse_event_size=None),
                cache=None,
            ) as client,
        ):
            line = Line(client.session)
            task_status.started(line)
            await line.ended()
    except Exception:
        if line is None:
            raise
        logger.exception("the session with the sandbox server broke")
    finally:
        if line is not None:
            line.retired = True


_LIMITS: Final = httpx2.Limits(max_connections=None, max_keepalive_connections=16)


@cache
def _trust() -> ssl.SSLContext:
    """Whom to believe over https; once, since reading the list takes longer than a call."""
    return ssl.create_default_context()
