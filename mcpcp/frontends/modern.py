"""Streamable HTTP of the modern era: stateless, one self-contained POST a request."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from mcpcp.callers import Caller, check_modern, declared_profile
from mcpcp.eras import id_in_state
from mcpcp.errors import Interrupted, McpcpError
from mcpcp.frontends.answers import check_message, error_object
from mcpcp.frontends.calls import STATUS_OF_ERROR, Patience, PostedCall
from mcpcp.frontends.forwarding import GONE, Forwarder
from mcpcp.frontends.requests import EventStream, Reply, Request, event
from mcpcp.frontends.subscriptions import Subscription
from mcpcp.gateway import Gateway
from mcpcp.jsonrpc import (
    CONNECTION_CLOSED,
    HEADER_MISMATCH,
    UNSUPPORTED_PROTOCOL_VERSION,
    Message,
    RpcError,
    decode,
    encode,
    error_response,
)
from mcpcp.paramheaders import declared, decode_header, mismatch
from mcpcp.policy import Agent
from mcpcp.protocol import LISTEN, META_VERSION, MODERN_VERSIONS

_NAMED_BY: Final = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}


class ModernHttp:
    """`/mcp` for clients whose MCP-Protocol-Version is of the modern era."""

    def __init__(
        self, gateway: Gateway, tasks: asyncio.TaskGroup, forwarder: Forwarder | None = None
    ) -> None:
        self._gateway = gateway
        self._tasks = tasks
        self._patience = Patience()
        self._forwarder = forwarder
        self._streams: dict[EventStream, Subscription] = {}
        self._calls = 0

    @property
    def count(self) -> int:
        """Requests and subscriptions under way."""
        return self._calls + len(self._streams)

    def close(self) -> None:
        """End every subscription."""
        for stream, subscription in self._streams.items():
            stream.push(event(subscription.result))
            stream.end()

    async def handle(self, request: Request, reply: Reply, agent: Agent) -> None:
        """One HTTP request."""
        if request.method != "POST":
            reply.text(405, "this era uses POST only", [(b"allow", b"POST")])
            return
        message: Message = {}
        try:
            raw = await request.body()
            message = check_message(decode(raw))
            if self._forwarder is not None and await self._forwarded(
                self._forwarder, request, reply, message, raw
            ):
                return
            await self._handle(request, reply, agent, message)
        except RpcError as error:
            status = STATUS_OF_ERROR.get(error.error["code"], 200)
            body = error_response(message.get("id"), error_object(error))
            reply.json(status, encode(body))

    async def _forwarded(
        self, forwarder: Forwarder, request: Request, reply: Reply, message: Message, body: bytes
    ) -> bool:
        """Whether another gateway, in which the call is parked, has answered."""
        params = message.get("params")
        if not isinstance(params, dict):
            return False
        named = id_in_state(params.get("requestState"))
        address = await forwarder.target(request, named)
        if address is None:
            return False
        try:
            await forwarder.forward(request, reply, address, body)
        except Interrupted:
            raise RpcError(CONNECTION_CLOSED, GONE) from None
        except McpcpError:
            return False  # the call that was parked is gone with its gateway: ours says so
        return True

    async def _handle(self, request: Request, reply: Reply, agent: Agent, message: Message) -> None:
        if message.get("id") is None:
            _check_version(request.header(b"mcp-protocol-version"))
            reply.send(202, b"")
            return
        _check_headers(request, message)
        params = check_modern(message.get("params"))
        caller = Caller(agent, modern=True, declared=declared_profile(params))
        self._check_params(request, caller, message)
        self._calls += 1
        try:
            if message["method"] == LISTEN:
                await self._listen(request, reply, message)
            else:
                call = PostedCall(self._gateway, reply, self._tasks, self._patience)
                await call.run(caller, message, request)
        finally:
            self._calls -= 1

    def _check_params(self, request: Request, caller: Caller, message: Message) -> None:
        """Arguments that the tool's schema wants in headers as well must be the same there."""
        if message["method"] != "tools/call":
            return
        params = message["params"]
        entry = self._gateway.view(caller.agent, caller.profile).find(
            "tool", str(params.get("name"))
        )
        if entry is None:
            return
        declarations = declared(entry.definition.get("inputSchema"))
        if declarations:
            wrong = mismatch(
                declarations, params.get("arguments"), lambda n: request.header(n.encode())
            )
            if wrong is not None:
                raise RpcError(HEADER_MISMATCH, wrong)

    async def _listen(self, request: Request, reply: Reply, message: Message) -> None:
        """A subscription: its answer is the stream, which lasts until the client leaves."""
        if not request.accepts("text/event-stream"):
            reply.text(406, "a subscription is a stream: accept text/event-stream")
            return
        token = request.bearer
        subscription = Subscription(
            self._gateway, lambda: self._gateway.authenticate(token), message
        )
        stream = EventStream()
        stream.push(event(subscription.acknowledgement))
        self._streams[stream] = subscription
        try:
            async with subscription.following(lambda m: stream.push(event(m)), stream.end):
                reply.start_stream()
                await stream.serve(request, reply)
        finally:
            del self._streams[stream]


def _check_version(version: str | None) -> None:
    if version not in MODERN_VERSIONS:
        data = {"supported": list(MODERN_VERSIONS), "requested": version}
        raise RpcError(UNSUPPORTED_PROTOCOL_VERSION, "Unsupported protocol version", data)


def _check_headers(request: Request, message: Message) -> None:
    """Headers that mirror the body must say the same: readers of either must not be misled."""
    params = message.get("params")
    meta: Any = params.get("_meta") if isinstance(params, dict) else None
    version = meta.get(META_VERSION) if isinstance(meta, dict) else None
    if version is not None and request.header(b"mcp-protocol-version") != version:
        raise _mismatch("MCP-Protocol-Version", META_VERSION)
    if request.header(b"mcp-method") != message.get("method"):
        raise _mismatch("Mcp-Method", "method")
    key = _NAMED_BY.get(message["method"])
    named = params.get(key) if key is not None and isinstance(params, dict) else None
    if named is not None and decode_header(request.header(b"mcp-name")) != named:
        raise _mismatch("Mcp-Name", f"params.{key}")


def _mismatch(header: str, member: str) -> RpcError:
    return RpcError(HEADER_MISMATCH, f"header {header} does not match the body's {member}")
