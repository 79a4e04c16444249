"""One middleware around every tool call: counts, times and logs it, and knows what is in flight."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import anyio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from servers.plumbing.credential import calling_agent
from servers.plumbing.logs import request_id
from servers.plumbing.metrics import REGISTRY
from servers.plumbing.patience import ticks

logger = logging.getLogger(__name__)

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, which nobody asks for

STOPPING = -32050
"""The error code of a call that was not run because the server stops: it can be sent again."""

_CALL = "tools/call"
_UNKNOWN = "(unknown)"
REQUEST_META = "mcpcp/request"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class _Ended(NamedTuple):
    tool: str
    outcome: str
    seconds: float
    agent: str | None


class Calls:
    """The tool calls of one process, as Prometheus and a graceful stop need to know them.

    `server` decides which names become labels, so a client can't invent time series.
    """

    def __init__(self, server: MCPServer[Any]) -> None:
        self._server = server
        self._known: frozenset[str] = frozenset()
        self._in_flight = 0
        self._draining = False
        self._idle = anyio.Event()
        self._registry = CollectorRegistry()
        self._count = Counter(
            "mcp_tool_calls", "Tool calls by outcome.", ["tool", "outcome"], registry=self._registry
        )
        self._duration = Histogram(
            "mcp_server_operation_duration_seconds",
            "How long tool calls took.",
            ["mcp_method_name", "gen_ai_tool_name"],
            buckets=_BUCKETS,
            registry=self._registry,
        )
        gauge = Gauge(
            "mcp_tool_calls_in_flight", "Tool calls being worked on.", registry=self._registry
        )
        gauge.set_function(lambda: self._in_flight)
        ProcessCollector(registry=self._registry)
        self._registry.register(REGISTRY)

    async def __call__(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        request_id.set(_request_id(ctx.meta))
        if ctx.method != _CALL or ctx.request_id is None:
            return await call_next(ctx)
        if self._draining:
            raise MCPError(STOPPING, "the server is stopping and did not run the call")
        return await self._observe(ctx, call_next)

    async def _observe(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        tool = await self._label(ctx.params)
        began = time.monotonic()
        outcome = "cancelled"
        self._in_flight += 1
        try:
            result = await call_next(ctx)
            outcome = "error" if _is_error(result) else "ok"
        except Exception:
            outcome = "failed"
            raise
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()
            ended = _Ended(tool, outcome, time.monotonic() - began, calling_agent(ctx))
            asyncio.get_running_loop().call_soon(self._record, ended)  # the answer goes first
        return result

    def _record(self, call: _Ended) -> None:
        self._count.labels(call.tool, call.outcome).inc()
        self._duration.labels(_CALL, call.tool).observe(call.seconds)
        extra = {"tool": call.tool, "outcome": call.outcome, "ms": round(call.seconds * 1000, 1)}
        logger.info("call", extra={**extra, "agent": call.agent})

    async def _label(self, params: Mapping[str, Any] | None) -> str:
        name = (params or {}).get("name")
        if name not in self._known:
            self._known = frozenset(tool.name for tool in await self._server.list_tools())
        return cast("str", name) if name in self._known else _UNKNOWN

    def exposition(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    async def drain(self, seconds: float) -> bool:
        """Refuse new calls and wait until none is in flight; False when `seconds` ran out first."""
        self._draining = True
        for tick in ticks(seconds):
            if not self._in_flight:
                break
            self._idle = anyio.Event()
            with anyio.move_on_after(tick):
                await self._idle.wait()
        return not self._in_flight


def _request_id(meta: Mapping[str, Any] | None) -> str:
    """The gateway's name for the request; whoever else calls may name it too, in that form."""
    given = (meta or {}).get(REQUEST_META)
    return given if isinstance(given, str) and _REQUEST_ID.fullmatch(given) else ""


def _is_error(result: HandlerResult) -> bool:
    if isinstance(result, Mapping):
        return bool(result.get("isError"))
    return bool(getattr(result, "is_error", False))
