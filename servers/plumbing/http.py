"""One port: /sse, /messages/ and /mcp for clients; /health, /ready and /metrics beside them.

Above: `serving` binds the socket and brings signals. Below: uvicorn's protocol and the SDK's apps.
"""

from __future__ import annotations

import logging
import socket
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import anyio
import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from servers.plumbing.calls import Calls
from servers.plumbing.credential import Credential, header
from servers.plumbing.health import HealthCheck, report
from servers.plumbing.patience import settled, ticks
from servers.plumbing.wire import JoiningProtocol

logger = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
OPEN_PATHS = frozenset({"/health", "/ready"})
METRICS = "/metrics"

DRAIN_SECONDS = 4.0
"""How long calls in flight may still run: below the supervisor's default stop deadline of 5 s."""

_FINISH_SECONDS = 1.0
"""For clients to take the ends of their responses."""


class PortTaken(Exception):
    """Somebody else listens there; the message names address and port."""


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 means any free one."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as e:
        raise PortTaken(f"can't listen on {host}: {e.strerror or e}") from e
    listener = socket.socket(family, kind, protocol)
    # so that a restart binds at once; on Windows the option would let two servers share the port
    if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
    else:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(128)
    except (OSError, OverflowError) as e:
        listener.close()
        reason = getattr(e, "strerror", None) or str(e)
        raise PortTaken(f"can't listen on {host}, port {port}: {reason}") from e
    listener.setblocking(False)
    return listener


def security(host: str, allowed_hosts: tuple[str, ...]) -> TransportSecuritySettings:
    """The Host and Origin headers to accept, for every bind: the SDK checks none on 0.0.0.0."""
    bound = f"[{host}]" if ":" in host else host
    names = dict.fromkeys((*LOOPBACK, bound, *allowed_hosts))
    hosts = [form for name in names for form in (name, f"{name}:*")]
    origins = [f"{scheme}://{form}" for form in hosts for scheme in ("http", "https")]
    return TransportSecuritySettings(
        enable_dns_rebinding_protection=True, allowed_hosts=hosts, allowed_origins=origins
    )


class Door:
    """ASGI: lets requests in that may enter, and can end all that are still inside."""

    def __init__(
        self, app: ASGIApp, settings: TransportSecuritySettings, credential: Credential | None
    ) -> None:
        self._app = app
        self._headers = TransportSecurityMiddleware(settings)
        self._credential = credential
        self._addressed: tuple[bytes, bytes] | None = None
        self._inside: set[anyio.CancelScope] = set()
        self.closed = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        refusal = await self._refusal(scope, receive)
        if refusal:
            await refusal(scope, receive, send)
            return
        await self._admit(scope, receive, send)

    async def _refusal(self, scope: Scope, receive: Receive) -> Response | None:
        if scope["path"] == METRICS:
            return self._metrics_refusal(scope)
        if self.closed:  # with the header that says: nothing was begun, try again
            return Response("the server is stopping", 503, {"retry-after": "1"})
        if self._credential and not self._credential.admits(scope):
            return Response("this server answers only its gateway", 401)
        return await self._misaddressed(scope, receive)

    async def _misaddressed(self, scope: Scope, receive: Receive) -> Response | None:
        """The refusal of a strange Host or Origin; what was let in last is known without a look."""
        addressed = header(scope, b"host"), header(scope, b"origin")
        if addressed == self._addressed:
            return None
        refusal = await self._headers.validate_request(Request(scope, receive))
        if refusal is None:
            self._addressed = addressed
        return refusal

    def _metrics_refusal(self, scope: Scope) -> Response | None:
        if self._credential is None or self._credential.admits_scrape(scope):
            return None
        challenge = {"www-authenticate": 'Bearer realm="metrics"'}
        return Response("metrics need the fleet's scrape token", 401, challenge)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = finished = False

        async def watch(message: Message) -> None:
            nonlocal started, finished
            started = True
            finished = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        visit = anyio.CancelScope()
        self._inside.add(visit)
        try:
            with visit:
                await self._app(scope, receive, watch)
        finally:
            self._inside.discard(visit)
        if not visit.cancelled_caught or finished:
            return
        if started:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            await Response("the server is stopping", 503)(scope, receive, send)

    def close(self) -> None:
        """End every stream that is open: an idle SSE stream would otherwise never end."""
        self.closed = True
        for visit in list(self._inside):
            visit.cancel()


def application(
    server: MCPServer[Any],
    calls: Calls,
    health: HealthCheck | None,
) -> Starlette:
    """The SDK's streamable HTTP app with the SSE routes and our own added, to be put behind a Door.

    A fresh Starlette of both route lists would never start the session manager.
    """

    async def get_health(_: Request) -> Response:
        return JSONResponse(report(server.name, health))

    async def get_ready(_: Request) -> Response:
        return JSONResponse({"status": "ready"})

    async def get_metrics(_: Request) -> Response:
        return Response(calls.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    unchecked = TransportSecuritySettings(enable_dns_rebinding_protection=False)  # the Door did it
    app = server.streamable_http_app(transport_security=unchecked)
    app.router.routes.extend(server.sse_app(transport_security=unchecked).routes)
    for path, endpoint in (
        ("/health", get_health),
        ("/ready", get_ready),
        (METRICS, get_metrics),
    ):
        app.router.routes.append(Route(path, endpoint))
    return app


class HttpServer(uvicorn.Server):
    """uvicorn without its signals, which it raises again, and its ten wake-ups a second."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=JoiningProtocol,
                log_config=None,
                access_log=False,
                lifespan="on",
                ws="none",
                date_header=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=1,
                timeout_keep_alive=75,  # longer than clients keep idle connections
            )
        )
        self._stop = anyio.Event()

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()

    async def main_loop(self) -> None:
        await self._stop.wait()

    def stop_accepting(self) -> None:
        """Close the listener; connections that are open stay."""
        for listener in getattr(self, "servers", ()):
            listener.close()

    async def finish(self) -> None:
        """End the connections, each after its response; a client that does not read is left."""
        for tick in ticks(_FINISH_SECONDS):
            for connection in list(self.server_state.connections):
                connection.shutdown()
            if not self.server_state.connections:
                return
            await anyio.sleep(tick)

    def stop(self) -> None:
        """Let `serve` return."""
        self._stop.set()


async def serve_http(
    door: Door,
    calls: Calls,
    listener: socket.socket,
    stop: anyio.Event,
) -> None:
    """Serve until `stop`, then: accept no more, finish the calls in flight, end the streams."""
    http = HttpServer(door)

    async def stop_in_order() -> None:
        await stop.wait()
        logger.info("stopping")
        http.stop_accepting()
        if not await calls.drain(DRAIN_SECONDS):
            logger.warning("calls were still running at the deadline and are cut off")
        await settled()
        door.close()
        await http.finish()
        http.stop()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stop_in_order)
        await http.serve(sockets=[listener])
        tasks.cancel_scope.cancel()
