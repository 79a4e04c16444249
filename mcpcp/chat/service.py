"""The chat service as a process: its HTTP server, from its start to SIGINT or SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import signal
import socket
from collections.abc import Callable
from typing import Final

from mcpcp import logs
from mcpcp.chat.app import ChatApp
from mcpcp.chat.cors import Cors
from mcpcp.chat.edge import ended
from mcpcp.chat.llm import Llm
from mcpcp.chat.mcpclient import McpClient
from mcpcp.chat.metrics import Metrics
from mcpcp.chat.spans import Telemetry, open_spans
from mcpcp.config import Config, process_environment
from mcpcp.config.llm import LlmSettings, chat_environment
from mcpcp.errors import ConfigError, FleetError
from mcpcp.frontends.serving import BACKLOG, HttpServer
from mcpcp.patience import patience
from mcpcp.scraping import load_token
from mcpcp.tokens import TokenSource

logger = logging.getLogger(__name__)

DRAIN: Final = 2.0
"""Seconds that answers under way may take when stopping: what is cut off can be asked again."""
LAST_WORDS: Final = 2.0
"""Seconds after that for a caller to take the last words, that it was cut off."""


async def serve(config: Config, host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM."""
    if config.chat.anonymous and not _is_loopback(host):
        raise ConfigError(
            f"chat.anonymous: {host} can be reached from outside, where callers need a token;"
            " listen on 127.0.0.1, or set it to false"
        )
    environment = chat_environment(config.root)
    own_token = own_token_of(config, environment.get("MCPCP_TOKEN", "").strip())
    scrape_token = load_token(config.monitoring.token_file)
    logs.hide(scrape_token)
    metrics = Metrics(scrape_token)
    settings = LlmSettings.of(environment)
    if settings.has_secret:
        logs.hide(settings.api_key)
    llm = Llm(settings, config.chat.stall, metrics)
    spans = open_spans(process_environment(), ended)
    gateway = McpClient(gateway_url(config, environment.get("MCP_SERVER_URL", "").strip()), spans)
    app = ChatApp(config.chat, host, llm, gateway, own_token, Telemetry(metrics, spans))
    try:
        with _listen(host, port) as listener:
            logger.info("serving http://%s:%d, model %s", host, port, llm.settings.model)
            await _serve_until_stopped(app, config.chat.allowed_origins, listener)
    finally:
        llm.close()
        gateway.close()
        await asyncio.to_thread(spans.close)


def gateway_url(config: Config, given: str) -> str:
    """The address of the gateway: as MCP_SERVER_URL says, else the config's own."""
    if given:
        if not given.startswith(("http://", "https://")):
            raise ConfigError(f"MCP_SERVER_URL: {given!r} is no http(s) URL")
        return given
    host = config.gateway.host
    anywhere = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104  (we connect there)
    shown = anywhere.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{config.gateway.port}/mcp"


def own_token_of(config: Config, given: str) -> Callable[[], str]:
    """Gives the service's own token: the environment's, else one made with the signing key."""
    if given:
        return lambda: given
    if config.chat.agent not in config.agents:
        raise ConfigError(
            f"{config.path} has no agent {config.chat.agent!r} for the chat service: add it to"
            " agents, name another in chat.agent, or give its token in MCPCP_TOKEN"
        )
    return TokenSource(config, config.chat.agent).token


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


async def _serve_until_stopped(
    app: ChatApp, origins: tuple[str, ...], listener: socket.socket
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows: the process just ends
            loop.add_signal_handler(number, stop.set)
    async with asyncio.TaskGroup() as tasks:
        server = HttpServer(Cors(app, origins), tasks)
        async with server.listening(listener):
            await stop.wait()
            if not await _drained(server, DRAIN):
                app.cut_off()
                await _drained(server, LAST_WORDS)


async def _drained(server: HttpServer, seconds: float) -> bool:
    """Whether all that was asked for is answered within that time."""
    try:
        async with patience(seconds):
            await server.drain()
    except TimeoutError:
        return False
    return True


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=BACKLOG
        )
    except OSError as error:
        raise FleetError(
            f"the chat service can't listen on {host}:{port}: {error.strerror}; "
            "stop what uses the port, or take another with --port"
        ) from None
