"""Requests for what lives in another gateway of the fleet, passed on to that one and back.

A load balancer may pick any of them; a session, or a call that waits for its client, is in one.
Whoever is asked passes the request on as it came, token and all: the other authorizes it anew.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final

from mcpcp.backends.addresses import addresses_of
from mcpcp.backends.http import HttpClient, Response
from mcpcp.errors import McpcpError
from mcpcp.frontends.requests import Reply, Request

if TYPE_CHECKING:
    from mcpcp.state.shared import SharedState

MARK: Final = "x-mcpcp-forwarded"
"""Names a request that was passed on once; nobody passes it on again."""

GONE: Final = (
    "the gateway that has this session went away while it answered: whether the call took effect"
    " is not known"
)
_PASSED: Final = (
    *("authorization", "accept", "content-type", "last-event-id", "origin"),
    *("traceparent", "tracestate", "x-request-id"),
    *("mcp-session-id", "mcp-protocol-version", "mcp-method", "mcp-name"),
)
_FORWARDED: Final = ("POST", "GET", "DELETE")
"""Any other method is refused wherever it arrives."""


class Forwarder:
    """Passes requests on to the other gateways that share our state.

    Once `draining` is set, sessions' own streams end: they would keep their connections open.
    """

    def __init__(self, shared: SharedState, draining: asyncio.Event) -> None:
        self._shared = shared
        self._draining = draining

    async def target(self, request: Request, named: str | None) -> str | None:
        """The address of the other gateway that an id names; None where it is ours, or gone."""
        instance = self._shared.peers.elsewhere(named)
        if instance is None or request.method not in _FORWARDED:
            return None
        if request.header(MARK.encode()) is not None:
            return None
        return await self._shared.peers.address_of(instance)

    async def forward(
        self, request: Request, reply: Reply, address: str, body: bytes | None = None
    ) -> None:
        """Have the gateway at `address` answer.

        Raises Unavailable where it could not be reached, Interrupted where it went away then.
        """
        if body is None and request.method == "POST":
            body = await request.body()
        client = HttpClient(address, {}, addresses_of(address))
        try:
            target = request.path + (f"?{request.query}" if request.query else "")
            response = await client.request(request.method, target, _headers(request), body)
            await self._return(response, request, reply)
        finally:
            client.close()

    async def _return(self, response: Response, request: Request, reply: Reply) -> None:
        head = response.head
        session = head.headers.get(b"mcp-session-id")
        headers = [] if session is None else [(b"mcp-session-id", session)]
        if head.content_type != b"text/event-stream":
            body = await response.read()
            reply.send(head.status, body, head.headers.get(b"content-type", b"text/plain"), headers)
            return
        reply.start_stream(headers)
        ends: list[Coroutine[Any, Any, object]] = [request.gone()]
        if request.method == "GET":
            ends.append(self._draining.wait())
        async with asyncio.TaskGroup() as tasks:
            endings = [tasks.create_task(_close_after(end, response)) for end in ends]
            with contextlib.suppress(McpcpError):  # cut off there is cut off here
                async for part in response:
                    await reply.stream(part)
            for ending in endings:
                ending.cancel()
        reply.end_stream()


async def _close_after(end: Coroutine[Any, Any, object], response: Response) -> None:
    await end
    response.close()


def _headers(request: Request) -> dict[str, str]:
    found = ((name, request.header(name.encode())) for name in _PASSED)
    params = request.headers_from(b"mcp-param-")
    return {**{name: value for name, value in found if value is not None}, **params, MARK: "1"}
