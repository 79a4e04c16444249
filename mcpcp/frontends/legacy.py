"""The legacy era over streamable HTTP: sessions at `/mcp`, whose streams can be resumed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import ExitStack
from typing import Any, Final

from mcpcp.callers import Caller
from mcpcp.errors import TokenError
from mcpcp.frontends.answers import check_message
from mcpcp.frontends.calls import Patience, PostedCall
from mcpcp.frontends.replay import EventLog, Outlet
from mcpcp.frontends.requests import EventStream, Reply, Request
from mcpcp.frontends.session import MOST_IN_FLIGHT
from mcpcp.gateway import Gateway
from mcpcp.jsonrpc import (
    INVALID_REQUEST,
    Message,
    RpcError,
    decode,
    encode,
    error_response,
    notification,
)
from mcpcp.listing import Shown
from mcpcp.policy import Agent
from mcpcp.state.events import Keep

MOST_SESSIONS: Final = 10_000
IDLE_TIMEOUT: Final = 30 * 60.0
"""Seconds after which a session that nobody uses is forgotten."""
RECENT: Final = 60.0
RESUMABLE_SINCE: Final = "2025-11-25"
"""The first version whose clients know events that are there only for their id."""


class HttpSession:
    """A legacy session of streamable HTTP, bound to the identity that opened it."""

    def __init__(self, gateway: Gateway, agent: Agent, token: str | None) -> None:
        self.client = gateway.open_session(self.push)
        self.identity = agent.identity
        self.token = token
        self.calls: dict[Any, PostedCall] = {}
        self.log = EventLog(_keeper(gateway, self.client.id, agent))
        self.own = Outlet(self.log)
        self._loop = asyncio.get_running_loop()
        self.used = self._loop.time()
        self._gateway = gateway
        self._caller = Caller(agent, self.client)
        self._shown = self.client.shown = Shown(gateway.view(agent))
        self._watching = ExitStack()
        self._watching.enter_context(gateway.registry.watch(self._catalog_changed))
        self._watching.enter_context(gateway.metrics.session())

    @property
    def id(self) -> str:
        """What the client shows with each request."""
        return self.client.id

    @property
    def held(self) -> bool:
        """Whether the client holds the session right now."""
        return bool(self.calls) or self.own.open

    @property
    def resumable(self) -> bool:
        """Whether the client can take up the stream of a call again."""
        return self.client.hello.version >= RESUMABLE_SINCE

    def touch(self, token: str | None) -> None:
        """Note that the client used the session, and the token it did so with."""
        self.used = self._loop.time()
        self.token = token

    def caller(self, agent: Agent) -> Caller:
        """The client, by the token that it shows now: mostly the one before."""
        if self._caller.agent is not agent:
            self._caller = Caller(agent, self.client)
        return self._caller

    def push(self, message: Message) -> None:
        """Send what belongs to no request: on the session's own stream, or on that of a call.

        Where there is neither, it waits for the next own stream. A void token hears nothing.
        """
        try:
            self._gateway.authenticate(self.token)
        except TokenError:
            return
        if not self.own.open and self.calls and "id" in message:
            next(reversed(self.calls.values())).notify(message)
        else:
            self.own.push(message)

    def close(self) -> None:
        """Forget everything; calls under way are cancelled."""
        self._watching.close()
        self.own.end()
        for call in list(self.calls.values()):
            call.cancel()
        self.client.close()

    def _catalog_changed(self) -> None:
        try:
            agent = self._gateway.authenticate(self.token)
        except TokenError:
            return
        view = self._gateway.view(agent, self.client.profile)
        for change in self._shown.changes(view):
            self.own.push(notification(change))


def _keeper(gateway: Gateway, session: str, agent: Agent) -> Keep | None:
    """What keeps a session's events for other gateways, where there may be some."""
    shared = gateway.shared
    return None if shared is None else shared.events.keeper(session, agent.identity)


class LegacyHttp:
    """`/mcp` for clients of the legacy era."""

    def __init__(self, gateway: Gateway, tasks: asyncio.TaskGroup) -> None:
        self._gateway = gateway
        self._tasks = tasks
        self._patience = Patience()
        self._sessions: dict[str, HttpSession] = {}

    @property
    def count(self) -> int:
        """Sessions that are held, or were used a moment ago."""
        recent = asyncio.get_running_loop().time() - RECENT
        return sum(1 for s in self._sessions.values() if s.held or s.used > recent)

    def close(self) -> None:
        """End every session's stream; calls under way are let finish."""
        for session in self._sessions.values():
            session.own.end()

    def handle(self, request: Request, reply: Reply, agent: Agent) -> Awaitable[None]:
        """One HTTP request."""
        if request.method == "POST":
            return self._post(request, reply, agent)
        return self._handle_session(request, reply, agent)

    async def _handle_session(self, request: Request, reply: Reply, agent: Agent) -> None:
        if request.method in ("GET", "DELETE"):
            session = self._find(request, agent)
            if session is None:
                if not (request.method == "GET" and await self._replayed(request, reply, agent)):
                    self.refuse(request, reply)
            elif request.method == "GET":
                await self._get(request, reply, session)
            else:
                self._forget(session)
                reply.send(200, b"")
        else:
            reply.text(405, "use POST, GET or DELETE", [(b"allow", b"POST, GET, DELETE")])

    async def _post(self, request: Request, reply: Reply, agent: Agent) -> None:
        message = check_message(decode(await request.body()))
        if message.get("method") == "initialize" and message.get("id") is not None:
            await self._initialize(request, reply, agent, message)
            return
        session = self._find(request, agent)
        if session is None:
            self.refuse(request, reply)
        elif message.get("id") is None or "method" not in message:
            self._receive(session, message)
            reply.send(202, b"")
        else:
            await self._call(session, request, reply, agent, message)

    async def _initialize(
        self, request: Request, reply: Reply, agent: Agent, message: Message
    ) -> None:
        self._make_room()
        session = HttpSession(self._gateway, agent, request.bearer)
        self._sessions[session.id] = session
        call = PostedCall(self._gateway, reply, self._tasks, self._patience)
        header = (b"mcp-session-id", session.id.encode())
        await call.run(session.caller(agent), message, request, [header])

    async def _call(
        self, session: HttpSession, request: Request, reply: Reply, agent: Agent, message: Message
    ) -> None:
        request_id = message["id"]
        if request_id in session.calls:
            raise RpcError(INVALID_REQUEST, f"Invalid request: id {request_id!r} is in use")
        if len(session.calls) >= MOST_IN_FLIGHT:
            raise RpcError(INVALID_REQUEST, f"more than {MOST_IN_FLIGHT} requests at once")
        log = session.log if session.resumable else None
        session.calls[request_id] = call = PostedCall(
            self._gateway, reply, self._tasks, self._patience, log
        )
        try:
            await call.run(session.caller(agent), message, request)
        finally:
            session.calls.pop(request_id, None)

    async def _replayed(self, request: Request, reply: Reply, agent: Agent) -> bool:
        """Whether a cut stream of a session whose gateway is gone could be told to its end."""
        shared = self._gateway.shared
        session, last = request.header(b"mcp-session-id"), request.header(b"last-event-id")
        if shared is None or session is None or last is None:
            return False
        events = await shared.events.replay(session, agent.identity, last)
        if events is None:
            return False
        reply.start_stream([(b"mcp-session-id", session.encode())])
        await reply.stream(b"".join(events))
        reply.end_stream()
        return True

    async def _get(self, request: Request, reply: Reply, session: HttpSession) -> None:
        if not request.accepts("text/event-stream"):
            reply.text(406, "accept text/event-stream")
            return
        outlet, replayed = session.own, None
        last = request.header(b"last-event-id")
        if last is not None and (found := session.log.resume(last)) is not None:
            outlet, replayed = found
        elif outlet.open:
            reply.text(409, "the session's stream is open already")
            return
        stream = EventStream()
        outlet.attach(stream, replayed)
        try:
            reply.start_stream([(b"mcp-session-id", session.id.encode())])
            await stream.serve(request, reply)
        finally:
            outlet.detach(stream)

    def _receive(self, session: HttpSession, message: Message) -> None:
        """Take a notification, or the client's answer to a question."""
        method, params = message.get("method"), message.get("params")
        if method is None:
            session.client.receive_answer(message)
        elif method != "notifications/cancelled":
            session.client.receive_notification(message)
        elif isinstance(params, dict):
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

    def refuse(self, request: Request, reply: Reply) -> None:
        """There is no such session: the client may open another."""
        named = request.header(b"mcp-session-id") is not None
        text = "Session not found: initialize again" if named else "Mcp-Session-Id is missing"
        body = error_response(None, {"code": INVALID_REQUEST, "message": text})
        reply.json(404 if named else 400, encode(body))

    def _forget(self, session: HttpSession) -> None:
        if self._sessions.pop(session.id, None) is not None:
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
