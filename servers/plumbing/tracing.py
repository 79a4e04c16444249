"""Sends the SDK's spans to a collector, where OTEL_EXPORTER_OTLP_ENDPOINT names one.

Where nobody collects them none is begun, unless the request belongs to a trace that it hands on.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mcp.server.context import (
    CallNext,
    HandlerResult,
    ServerMiddleware,
    ServerRequestContext,
)
from opentelemetry.propagate import get_global_textmap
from opentelemetry.trace import ProxyTracerProvider, get_tracer_provider

from servers.plumbing.patience import ticks

logger = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
LAST_WORDS = 2.0
"""Seconds that the collector has for what is left when the server stops."""


@contextmanager
def tracing(name: str) -> Iterator[None]:
    """While open, spans of the process are sent as those of the service `name`."""
    if not any(os.environ.get(variable) for variable in ENDPOINTS):
        yield
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace import set_tracer_provider
    except ImportError:
        logger.warning("no traces are sent: pip install 'mcpcp[otel]' brings what does")
        yield
        return
    provider = TracerProvider(
        resource=Resource.create({"service.name": name}), shutdown_on_exit=False
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    set_tracer_provider(provider)
    try:
        yield
    finally:
        sending = threading.Thread(target=provider.shutdown, daemon=True)
        sending.start()
        for tick in ticks(LAST_WORDS):
            sending.join(tick)
            if not sending.is_alive():
                break


class OnlyTraces:
    """The SDK's middleware for spans, around requests that are part of a trace.

    A span that goes nowhere costs a fifteenth of a call.
    """

    def __init__(self, spans: ServerMiddleware[Any]) -> None:
        self._spans = spans
        self._fields = frozenset(get_global_textmap().fields)

    async def __call__(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        if self._fields.isdisjoint(ctx.meta or ()):
            return await call_next(ctx)
        return await self._spans(ctx, call_next)


def spare_spans(middleware: list[ServerMiddleware[Any]]) -> None:
    """Have no spans made that nobody collects; to be called inside `tracing`."""
    if not isinstance(get_tracer_provider(), ProxyTracerProvider):
        return
    for place, each in enumerate(middleware):
        if type(each).__name__ == "OpenTelemetryMiddleware":  # the SDK has no public name for it
            middleware[place] = OnlyTraces(each)
