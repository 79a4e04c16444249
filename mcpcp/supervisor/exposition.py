"""The supervisor's own port: GET /metrics for who shows the scrape token, GET /health for all.

It is no web server: one short request a connection, bounded in bytes and time. What serves it is
imported when somebody asks, so that a fleet's start does not pay for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from mcpcp import scraping
from mcpcp.config import MonitoringConfig
from mcpcp.fleet import Snapshot
from mcpcp.processes import describe, port_owner

if TYPE_CHECKING:
    from mcpcp.supervisor.metrics import FleetMetrics

logger = logging.getLogger(__name__)

LONGEST_HEAD: Final = 16 * 1024
PATIENCE: Final = 30.0
TRY_AGAIN: Final = 5.0
_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"


class Exposition:
    """`run` serves until it is cancelled; a port that is taken is tried again."""

    def __init__(self, token: str, look: Callable[[], Snapshot]) -> None:
        self._token = token
        self._look = look
        self._metrics: FleetMetrics | None = None

    async def run(self, config: MonitoringConfig) -> None:
        """Serve on the port that the config names, for ever; without one, do nothing."""
        complained = False
        while config.port is not None:
            try:
                server = await asyncio.start_server(
                    self._serve, config.host, config.port, limit=LONGEST_HEAD
                )
            except OSError as error:
                if not complained:
                    _complain(config, error)
                complained = True
                await asyncio.sleep(TRY_AGAIN)
                continue
            async with server:
                await server.serve_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answer(head))
                await writer.drain()
        except (OSError, TimeoutError, EOFError, asyncio.LimitOverrunError) as error:
            logger.debug("a reader of the metrics went away: %r", error)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _answer(self, head: bytes) -> bytes:
        """The whole HTTP answer to a request's head."""
        line, *headers = head.decode("latin-1").split("\r\n")
        method, _, rest = line.partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if method != "GET":
            return _response("405 Method Not Allowed", "GET only\n", ("Allow: GET",))
        if path == "/health":
            health = {"status": "ok", "name": "supervisor", "pid": os.getpid()}
            return _response("200 OK", json.dumps(health), kind="application/json")
        if path != "/metrics":
            return _response("404 Not Found", "there are /metrics and /health\n")
        if not scraping.admits(self._token, _bearer(headers)):
            challenge = 'WWW-Authenticate: Bearer realm="metrics"'
            return _response("401 Unauthorized", f"{scraping.REFUSAL}\n", (challenge,))
        return _response("200 OK", self._render())

    def _render(self) -> str:
        if self._metrics is None:
            from mcpcp.supervisor.metrics import FleetMetrics

            self._metrics = FleetMetrics(self._look)
        return self._metrics.render().decode()


def _complain(config: MonitoringConfig, error: OSError) -> None:
    owner = describe(port_owner(config.port or 0))
    logger.warning(
        "the supervisor's metrics are not served: %s:%d is used by %s (%s); stop that, or set"
        " another monitoring.port",
        config.host,
        config.port,
        owner,
        error.strerror,
    )


def _bearer(headers: list[str]) -> str | None:
    for header in headers:
        name, _, value = header.partition(":")
        scheme, _, token = value.strip().partition(" ")
        if name.lower() == "authorization" and scheme.lower() == "bearer":
            return token.strip()
    return None


def _response(status: str, body: str, headers: tuple[str, ...] = (), *, kind: str = _TEXT) -> bytes:
    data = body.encode()
    fixed = (f"Content-Type: {kind}", f"Content-Length: {len(data)}", "Connection: close")
    head = "\r\n".join((f"HTTP/1.1 {status}", *fixed, *headers))
    return f"{head}\r\n\r\n".encode() + data
