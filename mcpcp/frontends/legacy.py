"""The legacy era over HTTP: streamable HTTP with sessions at `/mcp`, and the older `/sse`."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import ExitStack
from typing import Any, Final

from mcpcp.errors import TokenError
from mcpcp.frontends.answers import check_message
from mcpcp.frontends.calls import PostedCall
from mcpcp.frontends.requests import EventStream, Reply, Request, event
from mcpcp.frontends.session import MOST_IN_FLIGHT, DuplexSession
from mcpcp.frontends.subscriptions import TOOLS_CHANGED
from mcpcp.gateway import Caller, Gateway
from mcpcp.jsonrpc import (
    INVALID_REQUEST,
    Message,
    RpcError,
    decode,
    encode,
    error_response,
    notification,
)
from mcpcp.policy import Agent

MOST_SESSIONS: Final = 10_000
IDLE_TIMEOUT: Final = 30 * 60.0
"""Seconds after which a session that nobody uses is forgotten."""
RECENT: Final = 60.0
_LOOK_EVERY: Final = 0.1


class HttpSession:
    """A legacy session of streamable HTTP, bound to the identity that opened it."""

    def __init__(self, gateway: Gateway, agent: Agent, token: str | None) -> None:
        self.id = secrets.token_hex(16)
        self.identity = agent.identity
        self.token = token
        self.calls: dict[Any, PostedCall] = {}
        self.stream: EventStream | None = None
        self.used = asyncio.get_running_loop().time()
        self._gateway = gateway
        self._shown = gateway.view(agent).tools
        self._owed = False
        self._watching = ExitStack()
        self._watching.enter_context(gateway.registry.watch(self._catalog_changed))

    @property
    def held(self) -> bool:
        """Whether the client holds the session right now."""
        return bool(self.calls) or self.stream is not None

    def touch(self, token: str | None) -> None:
        """Note that the client used the session, and the token it did so with."""
        self.used = asyncio.get_running_loop().time()
        self.token = token

    def open_stream(self) -> EventStream:
        """Begin the session's own stream; what could not be told before is told now."""
        self.stream = EventStream()
        if self._owed:
            self._owed = False
            self.stream.push(event(notification(TOOLS_CHANGED)))
        return self.stream

    def close(self) -> None:
        """Forget everything; calls under way are cancelled."""
        self._watching.close()
        if self.stream is not None:
            self.stream.end()
        for call in list(self.calls.values()):
            call.cancel()

    def _catalog_changed(self) -> None:
        try:
            tools = self._gateway.view(self._gateway.authenticate(self.token)).tools
        except TokenError:
            return
        if tools == self._shown:
            return
        self._shown = tools
        if self.stream is None or self.stream.closed:
            self._owed = True
        else:
            self.stream.push(event(notification(TOOLS_CHANGED)))


class LegacyHttp:
    """`/mcp` for clients of the legacy era."""

    def __init__(self, gateway: Gateway, tasks: asyncio.TaskGroup) -> None:
        self._gateway = gateway
        self._tasks = tasks
        self._sessions: dict[str, HttpSession] = {}

    @property
    def count(self) -> int:
        """Sessions that are held, or were used a moment ago."""
        recent = asyncio.get_running_loop().time() - RECENT
        return sum(1 for s in self._sessions.values() if s.held or s.used > recent)

    def close(self) -> None:
        """End every session's stream; calls under way are let finish."""
        for session in self._sessions.values():
            if session.stream is not None:
                session.stream.end()

    async def handle(self, request: Request, reply: Reply, agent: Agent) -> None:
        """One HTTP request."""
        if request.method == "POST":
            await self._post(request, reply, agent)
        elif request.method in ("GET", "DELETE"):
            session = self._find(request, agent)
            if session is None:
                await self._no_session(request, reply)
            elif request.method == "GET":
                await self._get(request, reply, session)
            else:
                self._forget(session)
                await reply.send(200, b"")
        else:
            await reply.text(405, "use POST, GET or DELETE", [(b"allow", b"POST, GET, DELETE")])

    async def _post(self, request: Request, reply: Reply, agent: Agent) -> None:
        message = check_message(decode(await request.body()))
        if message.get("method") == "initialize" and message.get("id") is not None:
            await self._initialize(request, reply, agent, message)
            return
        session = self._find(request, agent)
        if session is None:
            await self._no_session(request, reply)
        elif message.get("id") is None or "method" not in message:
            self._receive_notification(session, message)
            await reply.send(202, b"")
        else:
            await self._call(session, request, reply, agent, message)

    async def _initialize(
        self, request: Request, reply: Reply, agent: Agent, message: Message
    ) -> None:
        self._make_room()
        session = HttpSession(self._gateway, agent, request.bearer)
        self._sessions[session.id] = session
        self._gateway.metrics.sessions.inc()
        call = PostedCall(self._gateway, reply, self._tasks)
        header = (b"mcp-session-id", session.id.encode())
        await call.run(Caller(agent, session.id), message, request, [header])

    async def _call(
        self, session: HttpSession, request: Request, reply: Reply, agent: Agent, message: Message
    ) -> None:
        request_id = message["id"]
        if request_id in session.calls:
            raise RpcError(INVALID_REQUEST, f"Invalid request: id {request_id!r} is in use")
        if len(session.calls) >= MOST_IN_FLIGHT:
            raise RpcError(INVALID_REQUEST, f"more than {MOST_IN_FLIGHT} requests at once")
        session.calls[request_id] = call = PostedCall(self._gateway, reply, self._tasks)
        try:
            await call.run(Caller(agent, session.id), message, request)
        finally:
            session.calls.pop(request_id, None)

    async def _get(self, request: Request, reply: Reply, session: HttpSession) -> None:
        if not request.accepts("text/event-stream"):
            await reply.text(406, "accept text/event-stream")
            return
        if session.stream is not None and not session.stream.closed:
            await reply.text(409, "the session's stream is open already")
            return
        stream = session.open_stream()
        try:
            await reply.start_stream([(b"mcp-session-id", session.id.encode())])
            await stream.serve(request, reply)
        finally:
            if session.stream is stream:
                session.stream = None

    def _receive_notification(self, session: HttpSession, message: Message) -> None:
        params = message.get("params")
        if message.get("method") == "notifications/cancelled" and isinstance(params, dict):
            request_id = params.get("requestId")
            if isinstance(request_id, str | int) and (call := session.calls.get(request_id)):
                call.cancel()

    def _find(self, request: Request, agent: Agent) -> HttpSession | None:
        """The request's session; somebody else's looks like none."""
        session = self._sessions.get(request.header(b"mcp-session-id") or "")
        if session is None or session.identity != agent.identity:
            return None
        session.touch(request.bearer)
        return session

    async def _no_session(self, request: Request, reply: Reply) -> None:
        named = request.header(b"mcp-session-id") is not None
        text = "Session not found: initialize again" if named else "Mcp-Session-Id is missing"
        body = error_response(None, {"code": INVALID_REQUEST, "message": text})
        await reply.json(404 if named else 400, encode(body))

    def _forget(self, session: HttpSession) -> None:
        if self._sessions.pop(session.id, None) is not None:
            self._gateway.metrics.sessions.dec()
            session.close()

    def _make_room(self) -> None:
        """Forget sessions that were idle for long; at the limit, the one idle longest."""
        now = asyncio.get_running_loop().time()
        idle = [s for s in self._sessions.values() if not s.held]
        for session in [s for s in idle if now - s.used > IDLE_TIMEOUT]:
            self._forget(session)
        if len(self._sessions) < MOST_SESSIONS:
            return
        if not idle:
            raise RpcError(INVALID_REQUEST, "too many sessions are open: try again later")
        self._forget(min(idle, key=lambda s: s.used))


class OldSse:
    """`/sse` and `/messages`: the transport of 2024-11-05."""

    def __init__(self, gateway: Gateway, tasks: asyncio.TaskGroup) -> None:
        self._gateway = gateway
        self._tasks = tasks
        self._sessions: dict[str, _SseSession] = {}

    @property
    def count(self) -> int:
        """Streams that are open."""
        return len(self._sessions)

    def close(self) -> None:
        """End every stream once its requests are answered."""
        for session in self._sessions.values():
            self._tasks.create_task(session.drain())

    def refuse(self, request: Request) -> None:
        """A message's token is void: where the session rests on it, the session ends.

        Its answers come on the stream, so a client may wait there for ever without a sign.
        """
        session = self._sessions.get(request.parameter("session_id") or "")
        if session is not None and session.token == request.bearer:
            session.stream.end()

    async def stream(self, request: Request, reply: Reply, agent: Agent) -> None:
        """GET /sse: a session that lives as long as this stream."""
        if request.method != "GET":
            await reply.text(405, "use GET", [(b"allow", b"GET")])
            return
        session = _SseSession(self._gateway, agent, request.bearer, self._tasks)
        endpoint = f"event: endpoint\ndata: /messages?session_id={session.duplex.id}\n\n"
        session.stream.push(endpoint.encode())
        self._sessions[session.duplex.id] = session
        try:
            with session.duplex:
                await reply.start_stream()
                await session.stream.serve(request, reply)
        finally:
            del self._sessions[session.duplex.id]

    async def message(self, request: Request, reply: Reply, agent: Agent) -> None:
        """POST /messages: one message; its answer comes on the stream."""
        if request.method != "POST":
            await reply.text(405, "use POST", [(b"allow", b"POST")])
            return
        session = self._sessions.get(request.parameter("session_id") or "")
        if session is None or session.identity != agent.identity:
            await reply.text(404, "Session not found")
            return
        message = decode(await request.body())
        session.token = request.bearer
        session.duplex.receive(message)
        await reply.text(202, "Accepted")


class _SseSession:
    def __init__(
        self, gateway: Gateway, agent: Agent, token: str | None, tasks: asyncio.TaskGroup
    ) -> None:
        self.identity = agent.identity
        self.token = token
        self.stream = EventStream()
        self.duplex = DuplexSession(
            gateway,
            lambda: gateway.authenticate(self.token),
            lambda message: self.stream.push(event(message)),
            tasks,
        )

    async def drain(self) -> None:
        """Let what was taken be answered, then end."""
        while self.duplex.busy:
            await self.duplex.answered(_LOOK_EVERY)
        self.stream.end()
