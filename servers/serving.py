"""How every script serves: flags, transports, health, metrics, logs, and who may call.

A script makes its `MCPServer`, registers its tools and ends with

    if __name__ == "__main__":
        serve(server, port=9004)

Below: `servers.plumbing`. Everything that a script needs is here.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from mcp.server.mcpserver import Context, MCPServer
from mcp_types import ToolAnnotations

from servers.plumbing import logs
from servers.plumbing.calls import REQUEST_META, Calls
from servers.plumbing.credential import (
    AGENT_META,
    Callee,
    Credential,
    CredentialError,
    calling_agent,
    take_credential,
)
from servers.plumbing.health import Health, HealthCheck
from servers.plumbing.http import Door, PortTaken, application, listen, security, serve_http
from servers.plumbing.loop import run
from servers.plumbing.modern import modern_calls
from servers.plumbing.stdio import serve_stdio
from servers.plumbing.stop import stop_event
from servers.plumbing.tracing import spare_spans, tracing

__all__ = [
    "Background",
    "Callee",
    "Health",
    "add_echo",
    "current_agent",
    "fail",
    "on_behalf_of",
    "serve",
    "setting",
]

logger = logging.getLogger(__name__)

Background = Callable[[], AbstractAsyncContextManager[object]]
"""Entered once a process around serving, on every transport.

An `MCPServer` lifespan is entered once a session over SSE, and twice over streamable HTTP, by the
SDK's app and for plain calls: no place for work that runs once."""


@dataclass(frozen=True, slots=True)
class Flags:
    """The command line of a script."""

    transport: Literal["stdio", "sse", "http"]
    host: str
    port: int
    allowed_hosts: tuple[str, ...]
    log_level: str
    log_format: logs.Format


def setting(name: str, default: str) -> str:
    """An environment variable; one that is set to nothing counts as unset."""
    return os.environ.get(name) or default


def current_agent(ctx: Context[Any, Any]) -> str | None:
    """The agent whose call this is, as the gateway says; None where nobody trustworthy said so."""
    return calling_agent(ctx.request_context)


def on_behalf_of(ctx: Context[Any, Any]) -> dict[str, str]:
    """The `_meta` by which a Callee is told whose call it is, and under which id it is logged."""
    agent, request = current_agent(ctx), (ctx.request_context.meta or {}).get(REQUEST_META)
    told = {AGENT_META: agent, REQUEST_META: request}
    return {key: value for key, value in told.items() if isinstance(value, str)}


def add_echo(server: MCPServer[Any]) -> None:
    """Register `echo`, which the scripts of the fleet have in common."""

    @server.tool(
        title="Echo",
        annotations=ToolAnnotations(
            read_only_hint=True, idempotent_hint=True, open_world_hint=False
        ),
    )
    async def echo(message: str) -> str:
        """Return the message as it came: shows that the server is reachable."""
        return message


def serve(
    server: MCPServer[Any],
    *,
    port: int = 8000,
    health: HealthCheck | None = None,
    background: Background | None = None,
    callees: Callable[[Mapping[str, Callee]], None] | None = None,
    argv: Sequence[str] | None = None,
) -> None:
    """Serve as the command line says, until stdin ends or SIGTERM or SIGINT comes; then return.

    `port` is the default of `--port`; `callees` is told which servers this one may call, by name,
    where a fleet started it. Exits with 2 for a wrong command line or credential, with 1
    where the port is taken. Over stdio it does not return after a signal but exits with 0.
    """
    flags = parse_flags(server, port, sys.argv[1:] if argv is None else argv)
    logs.configure(flags.log_level, flags.log_format)
    try:
        lent = take_credential(os.environ)
    except CredentialError as e:
        fail(server.name, str(e), 2)
    if lent is not None:
        logs.hide(*lent.secrets)
        if callees is not None:
            callees(lent.callees)
    calls = Calls(server)
    server.middleware.append(calls)
    around = background or nullcontext
    credential = lent.credential if lent else None
    with tracing(server.name):
        spare_spans(server.middleware)
        if flags.transport == "stdio":
            run(_over_stdio(server, calls, around))
        else:
            run(_over_http(server, calls, _Site(flags, credential, health, around)))


@dataclass(frozen=True, slots=True)
class _Site:
    flags: Flags
    credential: Credential | None
    health: HealthCheck | None
    background: Background


async def _over_stdio(server: MCPServer[Any], calls: Calls, background: Background) -> None:
    with stop_event() as stop:
        await serve_stdio(server, calls, background(), stop)


async def _over_http(server: MCPServer[Any], calls: Calls, site: _Site) -> None:
    flags = site.flags
    try:
        listener = listen(flags.host, flags.port)
    except PortTaken as e:
        fail(server.name, str(e), 1)
    with listener, stop_event() as stop:
        app = application(server, calls, site.health)
        host, bound = listener.getsockname()[:2]
        async with site.background(), modern_calls(app, server.session_manager.app) as way:
            door = Door(way, security(flags.host, flags.allowed_hosts), site.credential)
            logger.info("listening", extra={"server": server.name, "host": host, "port": bound})
            await serve_http(door, calls, listener, stop)


def fail(name: str, message: str, code: int) -> NoReturn:
    """End the script with one line on stderr."""
    sys.stderr.write(f"{name}: {message}\n")
    raise SystemExit(code)


def parse_flags(server: MCPServer[Any], port: int, argv: Sequence[str]) -> Flags:
    """The flags in `argv`; exits with 2 and the usage where they are wrong."""
    script = sys.argv[0] or "script.py"
    parser = argparse.ArgumentParser(
        description=server.description or server.instructions or server.name,
        epilog=(
            "examples:\n"
            f"  python {script}                                # over stdio, for an MCP client\n"
            f"  python {script} --transport sse --port {port}   # over HTTP\n"
            f"  curl http://127.0.0.1:{port}/health\n\n"
            "sse and http serve the same: /sse, /mcp, /health, /ready and /metrics on one port."
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--transport", choices=["stdio", "sse", "http"], default="stdio")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (%(default)s)")
    parser.add_argument("--port", type=int, default=port, help="0: any free (%(default)s)")
    parser.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further Host header to accept, without port; may be repeated",
    )
    levels = ["DEBUG", "INFO", "WARNING", "ERROR"]
    parser.add_argument(
        "--log-level", type=str.upper, choices=levels, default=setting("MCPCP_LOG_LEVEL", "INFO")
    )
    parser.add_argument(
        "--log-format", choices=["text", "json"], default=setting("MCPCP_LOG_FORMAT", "text")
    )
    parsed = parser.parse_args(argv)
    return Flags(
        transport=parsed.transport,
        host=parsed.host,
        port=parsed.port,
        allowed_hosts=tuple(parsed.allowed_host),
        log_level=parsed.log_level,
        log_format=parsed.log_format,
    )
