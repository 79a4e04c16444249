"""`/sse` and `/messages`: the transport of 2024-11-05, for old clients."""

from __future__ import annotations

import asyncio
from typing import Final

from mcpcp.frontends.requests import EventStream, Reply, Request, event
from mcpcp.frontends.session import DuplexSession
from mcpcp.gateway import Gateway
from mcpcp.jsonrpc import decode
from mcpcp.policy import Agent

_LOOK_EVERY: Final = 0.1


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
            reply.text(405, "use GET", [(b"allow", b"GET")])
            return
        session = _SseSession(self._gateway, agent, request.bearer, self._tasks)
        endpoint = f"event: endpoint\ndata: /messages?session_id={session.duplex.id}\n\n"
        session.stream.push(endpoint.encode())
        self._sessions[session.duplex.id] = session
        try:
            with session.duplex:
                reply.start_stream()
                await session.stream.serve(request, reply)
        finally:
            del self._sessions[session.duplex.id]

    async def message(self, request: Request, reply: Reply, agent: Agent) -> None:
        """POST /messages: one message; its answer comes on the stream."""
        if request.method != "POST":
            reply.text(405, "use POST", [(b"allow", b"POST")])
            return
        session = self._sessions.get(request.parameter("session_id") or "")
        if session is None or session.identity != agent.identity:
            reply.text(404, "Session not found")
            return
        message = decode(await request.body())
        session.token = request.bearer
        session.duplex.receive(message)
        reply.text(202, "Accepted")


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
