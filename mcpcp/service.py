"""The gateway as a process: its HTTP server, the relays' socket, and the supervisor's channel.

Above: `mcpcp serve`, and `mcpcp stdio` without a fleet. Below: one Gateway and its frontends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from mcpcp.audit import AuditLog
from mcpcp.channel import FleetChannel
from mcpcp.config import Config, load, process_environment, runtime_dir
from mcpcp.control import GATEWAY_SOCKET, listen_private
from mcpcp.errors import ConfigError, FleetError
from mcpcp.fleet import GatewayReport
from mcpcp.frontends.http import HttpFrontend
from mcpcp.frontends.serving import BACKLOG, HttpServer
from mcpcp.frontends.stdio import serve_connection, serve_stdio
from mcpcp.gateway import Gateway
from mcpcp.logs import hide
from mcpcp.metrics import Metrics
from mcpcp.registry import Registry
from mcpcp.scraping import load_token
from mcpcp.state import open_revocations, open_shared
from mcpcp.tokens import TokenVerifier
from mcpcp.tracing import open_tracing

logger = logging.getLogger(__name__)

REPORT_EVERY: Final = 0.5
WATCH_EVERY: Final = 1.0


async def serve(config: Config, channel: FleetChannel | None = None) -> None:
    """Serve HTTP until SIGINT or SIGTERM, then let calls in flight finish; a fleet's gateway
    (which has a `channel`) serves the relays of `mcpcp stdio` as well."""
    scrape_token = load_token(config.monitoring.token_file)
    hide(scrape_token)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows: the process just ends
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with _listen(config) as listener:
        async with running_gateway(config, channel) as gateway, asyncio.TaskGroup() as tasks:
            relays = _Relays(gateway)
            frontend = HttpFrontend(gateway, tasks, scrape_token)
            server = HttpServer(frontend, tasks)
            async with contextlib.AsyncExitStack() as sockets:
                if channel is not None:
                    path = runtime_dir(config.path) / GATEWAY_SOCKET
                    await sockets.enter_async_context(listen_private(path, relays.serve))
                    reporter = tasks.create_task(_report(channel, gateway, frontend, relays))
                    lost = tasks.create_task(_stop_with(channel, stop))
                await sockets.enter_async_context(server.listening(listener))
                logger.info("serving http://%s:%d/mcp", config.gateway.host, config.gateway.port)
                await stop.wait()
                await _drain(server, frontend, relays, config.gateway.drain)
                if channel is not None:
                    reporter.cancel()
                    lost.cancel()


async def stdio_alone(config: Config, token: str | None) -> None:
    """Serve the client on our own stdin and stdout, with a gateway of our own."""
    async with running_gateway(config, None) as gateway:
        await serve_stdio(gateway, token)


@contextlib.asynccontextmanager
async def running_gateway(config: Config, channel: FleetChannel | None) -> AsyncIterator[Gateway]:
    """A gateway whose backends connect; the supervisor's word is followed from its first line."""
    credential = await channel.credential() if channel is not None else None
    hide(credential or "")
    shared = open_shared(config)
    registry = Registry(config, credential, shared.pins if shared else None)
    audit = AuditLog(
        config.audit_path,
        config.keys_dir,
        max_bytes=config.gateway.audit_max_bytes,
        required=config.gateway.audit_required,
    )
    revocations = shared.revocations if shared else open_revocations(config)
    verifier = TokenVerifier(config.keys_dir, revocations)
    tracing = open_tracing(process_environment())
    gateway = Gateway(registry, verifier, audit, Metrics(), tracing, shared)
    if channel is not None:
        registry.follow(await channel.first_fleet())
    started = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        helpers = [
            tasks.create_task(registry.run(started.set)),
            tasks.create_task(audit.run()),
            tasks.create_task(
                _follow(channel, registry) if channel is not None else _watch_config(registry)
            ),
        ]
        if shared is not None:
            helpers.append(tasks.create_task(shared.run()))
        try:
            await started.wait()
            yield gateway
        finally:
            for helper in helpers:
                helper.cancel()
    audit.close()
    await asyncio.to_thread(tracing.close)


class _Relays:
    """The relays' connections, counted: each is its client's lease on the fleet."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.count = 0
        self._none_left = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One relay, from its token to its end."""
        self.count += 1
        try:
            await serve_connection(self._gateway, reader, writer)
        finally:
            self.count -= 1
            if self.count == 0:
                self._none_left.set()

    async def drain(self) -> None:
        """Wait until every relay's requests are answered; it takes no more of them."""
        if self.count:
            self._none_left.clear()
            await self._none_left.wait()


def _listen(config: Config) -> socket.socket:
    host, port = config.gateway.host, config.gateway.port
    try:
        return socket.create_server(
            (host, port),
            family=socket.AF_INET6 if ":" in host else socket.AF_INET,
            backlog=BACKLOG,
        )
    except OSError as error:
        raise FleetError(
            f"the gateway can't listen on {host}:{port}: {error.strerror}; "
            "stop what uses the port, or set another gateway.port in the config"
        ) from None


async def _drain(
    server: HttpServer, frontend: HttpFrontend, relays: _Relays, deadline: float
) -> None:
    """Take no more calls, let those in flight finish, at most `deadline` seconds."""
    frontend.gateway.draining.set()
    frontend.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(deadline):
            await server.drain()
            await relays.drain()


async def _stop_with(channel: FleetChannel, stop: asyncio.Event) -> None:
    """The fleet's gateway does not outlive its supervisor."""
    await channel.closed.wait()
    stop.set()


async def _follow(channel: FleetChannel, registry: Registry) -> None:
    async for kind, value in channel.messages():
        if kind == "fleet":
            registry.follow(value)
        elif kind == "reload":
            _reload(registry)
        elif kind == "restart":
            registry.restart(value)


async def _watch_config(registry: Registry) -> None:
    path = registry.config.path
    seen = _stamp(path)
    while True:
        await asyncio.sleep(WATCH_EVERY)
        if (now := _stamp(path)) != seen:
            seen = now
            _reload(registry)


def _reload(registry: Registry) -> None:
    try:
        registry.apply(load(registry.config.path))
    except ConfigError as error:
        logger.error("the config stays as it was: %s", error)  # noqa: TRY400  (its text says all)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


async def _report(
    channel: FleetChannel, gateway: Gateway, frontend: HttpFrontend, relays: _Relays
) -> None:
    last = None
    while True:
        metrics = gateway.metrics
        report = GatewayReport(
            ready=gateway.registry.ready,
            calls=metrics.calls,
            errors=metrics.errors,
            denied=metrics.denied,
            in_flight=metrics.in_flight,
            connections=frontend.connections + relays.count,
            servers=gateway.registry.statuses(),
        )
        if report != last:
            channel.report(report)
            last = report
        await asyncio.sleep(REPORT_EVERY)
