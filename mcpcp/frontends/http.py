"""The gateway over HTTP: `/mcp` (streamable, both eras), `/sse` for old clients, health, metrics.

A bare ASGI application: one function decides by path, small classes hold the streams. Above it is
uvicorn; below, `answers` and `session` speak with the gateway.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from mcpcp import requestid, scraping
from mcpcp.config import GatewayConfig
from mcpcp.errors import TokenError
from mcpcp.frontends.guard import HostGuard
from mcpcp.frontends.legacy import LegacyHttp
from mcpcp.frontends.modern import ModernHttp
from mcpcp.frontends.oldsse import OldSse
from mcpcp.frontends.requests import Reply, Request, TooLarge
from mcpcp.gateway import Gateway
from mcpcp.jsonrpc import INVALID_REQUEST, LEGACY_VERSIONS, RpcError, encode, error_response
from mcpcp.policy import Agent

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_METRICS_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"


class HttpFrontend:
    """The ASGI application; `tasks` is where streams and long calls live.

    `scrape_token` is what a reader of /metrics must show.
    """

    def __init__(self, gateway: Gateway, tasks: asyncio.TaskGroup, scrape_token: str) -> None:
        self.gateway = gateway
        self._scrape_token = scrape_token
        self._guard = HostGuard("gateway", self._reachable_as)
        self.legacy = LegacyHttp(gateway, tasks)
        self.old_sse = OldSse(gateway, tasks)
        self._modern = ModernHttp(gateway, tasks)
        self.draining = False
        self._open = {
            "/health": self._health,
            "/ready": self._ready,
        }

    def _reachable_as(self) -> tuple[str, GatewayConfig]:
        config = self.gateway.config.gateway
        return config.host, config

    @property
    def connections(self) -> int:
        """Sessions and streams that clients hold open, and requests under way."""
        return self.legacy.count + self.old_sse.count + self._modern.count

    def close(self) -> None:
        """End every stream that waits for nothing, so that its connection can close."""
        self.draining = True
        self.legacy.close()
        self.old_sse.close()
        self._modern.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP request."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        reply = Reply(send, requestid.begin(request.header(requestid.HEADER)))
        refusal = self._guard.refuse(request)
        if refusal is not None:
            await reply.text(403, refusal)
        elif (public := self._open.get(request.path)) is not None:
            await public(reply)
        elif request.path == "/metrics":
            await self._metrics(request, reply)
        elif request.path in ("/mcp", "/sse", "/messages"):
            await self._serve(request, reply)
        else:
            await reply.text(404, "not found: the gateway serves /mcp, /sse, /health and /ready")

    async def _serve(self, request: Request, reply: Reply) -> None:
        try:
            agent = self.gateway.authenticate(request.bearer)
            await self._route(request, reply, agent)
        except TokenError as error:
            self.old_sse.refuse(request)
            challenge = (b"www-authenticate", b'Bearer realm="mcpcp", error="invalid_token"')
            await reply.json(401, _refusal(str(error)), [challenge])
        except TooLarge as error:
            await reply.json(413, _refusal(str(error)))
        except RpcError as error:
            await reply.json(400, encode(error_response(None, error.error)))

    async def _route(self, request: Request, reply: Reply, agent: Agent) -> None:
        version = request.header(b"mcp-protocol-version")
        if request.path == "/sse":
            await self.old_sse.stream(request, reply, agent)
        elif request.path == "/messages":
            await self.old_sse.message(request, reply, agent)
        elif version is not None and version not in LEGACY_VERSIONS:
            await self._modern.handle(request, reply, agent)
        else:
            await self.legacy.handle(request, reply, agent)

    async def _health(self, reply: Reply) -> None:
        await reply.json(200, encode({"status": "ok", "name": "gateway", "pid": os.getpid()}))

    async def _ready(self, reply: Reply) -> None:
        if self.gateway.registry.ready and not self.draining:
            await reply.json(200, b'{"status":"ready"}')
        else:
            waiting = self.gateway.registry.waiting()
            await reply.json(503, encode({"status": "starting", "waiting_for": waiting}))

    async def _metrics(self, request: Request, reply: Reply) -> None:
        """Metrics name servers and tools, which agents must not learn of here."""
        if scraping.admits(self._scrape_token, request.bearer):
            await reply.send(200, self.gateway.render_metrics(), _METRICS_TYPE)
        else:
            challenge = (b"www-authenticate", b'Bearer realm="metrics"')
            await reply.text(401, scraping.REFUSAL, [challenge])


def _refusal(message: str) -> bytes:
    return encode(error_response(None, {"code": INVALID_REQUEST, "message": message}))
