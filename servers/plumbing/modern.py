"""Plain calls of the modern era, by the shortest way to the SDK's dispatch.

Such a call is one POST and its answer. The SDK's own way there, by routes, a session manager, tasks
and streams between them, costs several times what the dispatch does. Only what is certainly
well-formed goes the short way: everything else is the SDK's app's, and so is every refusal.

Above: the Door. Below: `exchange`, and the SDK's `ServerRunner`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import anyio
from mcp.server.connection import Connection
from mcp.server.lowlevel import Server
from mcp.server.runner import ServerRunner, aclose_shielded, modern_error_data
from mcp.shared.inbound import (
    MCP_METHOD_HEADER,
    MCP_NAME_HEADER,
    MCP_PROTOCOL_VERSION_HEADER,
    InboundModernRoute,
    classify_inbound_request,
    x_mcp_header_map,
)
from mcp_types import JSONRPCRequest
from mcp_types.version import LATEST_MODERN_VERSION
from pydantic import ValidationError
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from servers.plumbing.exchange import Exchange

PATH: Final = "/mcp"
CALL: Final = "tools/call"

_LARGEST: Final = 1024 * 1024
"""Bytes of a body; the SDK's app knows what to do with larger ones."""

_HEADERS: Final = {
    b"content-type": b"application/json",
    b"accept": b"application/json, text/event-stream",
    MCP_METHOD_HEADER.encode(): CALL.encode(),
    MCP_PROTOCOL_VERSION_HEADER.encode(): LATEST_MODERN_VERSION.encode(),
}
"""As SDKs and the gateway write them: other ways to write the same are the SDK's app's to read."""

_QUICK_SECONDS: Final = 0.05
"""A call that takes longer than that is looked after."""

_PING_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class _Call:
    request: JSONRPCRequest
    params: dict[str, Any]
    route: InboundModernRoute


class ModernCalls:
    """ASGI: answers plain calls of the modern era, and leaves everything else to `app`."""

    def __init__(self, app: ASGIApp, server: Server[Any], lifespan: Any) -> None:
        self._app = app
        self._server = server
        self._lifespan = lifespan
        self._plain_tools: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _plain_headers(scope)
        if headers is None:
            await self._app(scope, receive, send)
            return
        body = await _read(receive)
        if body is None:
            return
        call = _understood(headers, body)
        if call is None or not self._is_plain_tool(call.params.get("name")):
            await self._app(scope, _replaying(body, receive), send)
            return
        await self._run(call, Exchange(call.request.id, call.params, Request(scope), send), receive)

    def _is_plain_tool(self, name: object) -> bool:
        """Whether there is such a tool, and its schema wants none of its arguments in headers."""
        if name in self._plain_tools:
            return True
        schema_of = self._server.get_tool_input_schema
        schema = schema_of(name) if schema_of and isinstance(name, str) else None
        if schema is None or x_mcp_header_map(schema):
            return False
        self._plain_tools.add(str(name))
        return True

    async def _run(self, call: _Call, exchange: Exchange, receive: Receive) -> None:
        visit = anyio.CancelScope()
        attendants: list[asyncio.Task[None]] = []
        async with asyncio.TaskGroup() as tasks:

            def attend() -> None:
                attendants.append(tasks.create_task(_attend(exchange, receive, visit)))

            late = asyncio.get_running_loop().call_later(_QUICK_SECONDS, attend)
            try:
                with visit:
                    await self._answer(call, exchange)
            finally:
                late.cancel()
                for attendant in attendants:
                    attendant.cancel()

    async def _answer(self, call: _Call, exchange: Exchange) -> None:
        connection = _connection(call.route)
        runner = ServerRunner(self._server, connection, self._lifespan)
        try:
            try:
                result = await runner.on_request(exchange, CALL, call.params)
            except Exception as error:
                await exchange.fail(modern_error_data(error))
            else:
                await exchange.succeed(result)
        finally:
            await aclose_shielded(connection)


@asynccontextmanager
async def modern_calls(app: ASGIApp, server: Server[Any]) -> AsyncIterator[ModernCalls]:
    """While the context is open, plain calls are answered; `server` is the one behind `app`."""
    async with server.lifespan(server) as lifespan:
        yield ModernCalls(app, server, lifespan)


def _connection(route: InboundModernRoute) -> Connection:
    return Connection.from_envelope(
        route.protocol_version, route.client_info, route.client_capabilities
    )


def _plain_headers(scope: Scope) -> dict[bytes, bytes] | None:
    """The headers of what may be a plain call, none of them there twice."""
    if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] != PATH:
        return None
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"")
    if (
        len(headers) != len(scope["headers"])
        or not _HEADERS.items() <= headers.items()
        or not length.isdigit()
        or int(length) > _LARGEST
    ):
        return None
    return headers


def _understood(headers: Mapping[bytes, bytes], body: bytes) -> _Call | None:
    """The call, if it is one and its headers say the same: by the SDK's own rules."""
    try:
        request = JSONRPCRequest.model_validate_json(body)
    except ValidationError:
        return None
    names = (MCP_PROTOCOL_VERSION_HEADER, MCP_METHOD_HEADER, MCP_NAME_HEADER)
    routing = {name: headers.get(name.encode(), b"").decode("latin-1") for name in names}
    route = classify_inbound_request(
        {"method": request.method, "params": request.params}, headers=routing
    )
    if not isinstance(route, InboundModernRoute) or request.params is None:
        return None
    return _Call(request, request.params, route)


async def _read(receive: Receive) -> bytes | None:
    """The whole body; None where the client went before its end."""
    parts = []
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def _replaying(body: bytes, receive: Receive) -> Receive:
    """`receive`, for somebody who has not seen the body yet."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


async def _attend(exchange: Exchange, receive: Receive, visit: anyio.CancelScope) -> None:
    """Look after a call that takes its time: cancel it when its client goes, ping until then."""

    async def keep_alive() -> None:
        while True:
            await anyio.sleep(_PING_SECONDS)
            await exchange.ping()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep_alive)
        while (await receive())["type"] != "http.disconnect":
            pass
        visit.cancel()
        tasks.cancel_scope.cancel()
