"""The gateway over HTTP: `/mcp` (streamable, both eras), `/sse` for old clients, health, metrics.

One function decides by path, small classes hold the streams. Above, `serving` has the connections;
below, `answers` and `session` speak with the gateway.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable
from dataclasses import replace
from typing import Final

from mcpcp import requestid, scraping, tracecontext
from mcpcp.config import GatewayConfig
from mcpcp.errors import Interrupted, TokenError, Unavailable
from mcpcp.frontends.answers import error_object
from mcpcp.frontends.forwarding import GONE, Forwarder
from mcpcp.frontends.guard import HostGuard
from mcpcp.frontends.legacy import LegacyHttp
from mcpcp.frontends.modern import ModernHttp
from mcpcp.frontends.oldsse import OldSse
from mcpcp.frontends.requests import Reply, Request, TooLarge
from mcpcp.gateway import Gateway
from mcpcp.jsonrpc import INVALID_REQUEST, RpcError, encode, error_response
from mcpcp.protocol import LEGACY_VERSIONS

_SERVED: Final = ("/mcp", "/sse", "/messages")
_METRICS_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"


class HttpFrontend:
    """The application; `tasks` is where streams and long calls live.

    `scrape_token` is what a reader of /metrics must show.
    """

    def __init__(self, gateway: Gateway, tasks: asyncio.TaskGroup, scrape_token: str) -> None:
        self.gateway = gateway
        self._scrape_token = scrape_token
        self._guard = HostGuard("gateway", self._reachable_as)
        self.legacy = LegacyHttp(gateway, tasks)
        self.old_sse = OldSse(gateway, tasks)
        self._forwarder = (
            None if gateway.shared is None else Forwarder(gateway.shared, gateway.draining)
        )
        self._modern = ModernHttp(gateway, tasks, self._forwarder)
        self.draining = False

    def _reachable_as(self) -> tuple[str, GatewayConfig]:
        config, shared = self.gateway.config.gateway, self.gateway.shared
        if shared is not None:  # other gateways pass requests on to our address
            config = replace(config, allowed_hosts=(*config.allowed_hosts, shared.peers.host))
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

    def __call__(self, request: Request, reply: Reply) -> Awaitable[None]:
        """One HTTP request."""
        reply.add_header(requestid.HEADER, requestid.begin(request.header(requestid.HEADER)))
        tracecontext.begin(request.header)
        refusal = self._guard.refuse(request)
        if refusal is None and request.path in _SERVED:
            return self._serve(request, reply)
        return self._show(request, reply, refusal)

    async def _show(self, request: Request, reply: Reply, refusal: str | None) -> None:
        """What is no business of agents."""
        if refusal is not None:
            reply.text(403, refusal)
        elif request.path == "/health":
            self._health(reply)
        elif request.path == "/ready":
            self._ready(reply)
        elif request.path == "/metrics":
            self._metrics(request, reply)
        else:
            reply.text(404, "not found: the gateway serves /mcp, /sse, /health and /ready")

    async def _serve(self, request: Request, reply: Reply) -> None:
        try:
            agent = self.gateway.authenticate(request.bearer)
            if self._forwarder is not None and await self._forwarded(
                self._forwarder, request, reply
            ):
                return
            if request.path == "/mcp":
                await self._era(request).handle(request, reply, agent)
            elif request.path == "/sse":
                await self.old_sse.stream(request, reply, agent)
            else:
                await self.old_sse.message(request, reply, agent)
        except TokenError as error:
            self.old_sse.refuse(request)
            challenge = (b"www-authenticate", b'Bearer realm="mcpcp", error="invalid_token"')
            reply.json(401, _refusal(str(error)), [challenge])
        except TooLarge as error:
            reply.json(413, _refusal(str(error)))
        except RpcError as error:
            reply.json(400, encode(error_response(None, error.error)))

    async def _forwarded(self, forwarder: Forwarder, request: Request, reply: Reply) -> bool:
        """Whether another gateway, in which the session lives, has answered."""
        named = request.parameter("session_id") or request.header(b"mcp-session-id")
        address = await forwarder.target(request, named)
        if address is None:
            return False
        try:
            await forwarder.forward(request, reply, address)
        except Interrupted:
            reply.json(502, encode(error_response(None, error_object(Interrupted(GONE)))))
        except Unavailable:  # gone a moment ago, and its sessions with it
            if request.method != "POST":
                return False
            self.legacy.refuse(request, reply)
        return True

    def _era(self, request: Request) -> ModernHttp | LegacyHttp:
        version = request.header(b"mcp-protocol-version")
        return self.legacy if version is None or version in LEGACY_VERSIONS else self._modern

    def _health(self, reply: Reply) -> None:
        reply.json(200, encode({"status": "ok", "name": "gateway", "pid": os.getpid()}))

    def _ready(self, reply: Reply) -> None:
        if self.gateway.registry.ready and not self.draining:
            reply.json(200, b'{"status":"ready"}')
        else:
            waiting = self.gateway.registry.waiting()
            reply.json(503, encode({"status": "starting", "waiting_for": waiting}))

    def _metrics(self, request: Request, reply: Reply) -> None:
        """Metrics name servers and tools, which agents must not learn of here."""
        if scraping.admits(self._scrape_token, request.bearer):
            reply.send(200, self.gateway.render_metrics(), _METRICS_TYPE)
        else:
            challenge = (b"www-authenticate", b'Bearer realm="metrics"')
            reply.text(401, scraping.REFUSAL, [challenge])


def _refusal(message: str) -> bytes:
    return encode(error_response(None, {"code": INVALID_REQUEST, "message": message}))
