"""Spans for OpenTelemetry, where OTEL_EXPORTER_OTLP_ENDPOINT says that somebody collects them.

The context comes with a request, in `_meta` or else in the headers of HTTP, and goes on to its
server as the W3C's `traceparent` in `_meta`, as MCP's conventions want it. Nothing of OpenTelemetry
is imported before an endpoint is found.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from mcpcp import __version__, requestid, tracecontext

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

Message = dict[str, Any]

logger = logging.getLogger(__name__)

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
WAIT: Final = 0.1
LAST_WAITS: Final = 50
"""Waits of WAIT seconds that the collector has for what is left when we stop; counted, since a
clock would count the time as well in which this process did not run."""


class Trace(Protocol):
    """What is traced of one call."""

    def carry(self, params: Message) -> None:
        """Have the server go on from here: `params` are those that it gets, with their `_meta`."""

    def end(self, outcome: str) -> None:
        """Say how the call ended."""


class Tracing(Protocol):
    """Traces calls, or does not."""

    def begin(self, server: str, method: str, tool: str, params: Message) -> Trace:
        """A call that has come with `params`."""

    def close(self) -> None:
        """Send what is left."""


class Untraced:
    """Where nobody collects traces; a caller's own `traceparent` passes as everything does."""

    def begin(self, server: str, method: str, tool: str, params: Message) -> Trace:
        """See Tracing."""
        return self

    def carry(self, params: Message) -> None:
        """See Trace; what came in headers goes on where the server looks for it."""
        meta = params["_meta"]
        if tracecontext.current() and not meta.get(tracecontext.PARENT):
            params["_meta"] = {**meta, **tracecontext.current()}

    def end(self, outcome: str) -> None:
        """See Trace."""

    def close(self) -> None:
        """See Tracing."""


UNTRACED: Final = Untraced()


class SpanTrace:
    """The span of one call."""

    __slots__ = ("_span",)

    def __init__(self, span: Span) -> None:
        self._span = span

    def carry(self, params: Message) -> None:
        """See Trace; our span takes the place of the caller's."""
        from opentelemetry.trace import set_span_in_context

        meta = {k: v for k, v in params["_meta"].items() if k not in tracecontext.FIELDS}
        propagator().inject(meta, set_span_in_context(self._span))
        params["_meta"] = meta

    def end(self, outcome: str) -> None:
        """See Trace; texts of errors may hold a client's words, and are left out."""
        from opentelemetry.trace import StatusCode

        if outcome != "ok":
            self._span.set_attribute("error.type", outcome)
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class SpanTracing:
    """Makes the gateway's spans and sends them, from a thread of its own."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("mcpcp", __version__)

    def begin(self, server: str, method: str, tool: str, params: Message) -> Trace:
        """See Tracing."""
        from opentelemetry.trace import SpanKind

        attributes = {
            "mcp.method.name": method,
            "mcpcp.server": server,
            "mcpcp.request": requestid.current(),
        }
        if method == "tools/call":
            attributes |= {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": tool}
        name, parent = f"{method} {tool}", parent_of(params.get("_meta"))
        return SpanTrace(
            self._tracer.start_span(name, parent, kind=SpanKind.SERVER, attributes=attributes)
        )

    def close(self) -> None:
        """See Tracing."""
        say_last_words(self._provider)


def say_last_words(provider: TracerProvider) -> None:
    """Send what is left; a collector that is away holds nobody up."""
    sending = threading.Thread(target=provider.shutdown, daemon=True)
    sending.start()
    for _ in range(LAST_WAITS):
        sending.join(WAIT)
        if not sending.is_alive():
            return


def parent_of(meta: object) -> Context:
    """The caller's span; the empty context where it sent none that can be read."""
    from opentelemetry.context import Context

    texts = tracecontext.of(meta if isinstance(meta, dict) else {})
    return propagator().extract(texts, Context())


def propagator() -> TraceContextTextMapPropagator:
    """What reads and writes the W3C's form."""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator()


def open_tracing(environ: Mapping[str, str]) -> Tracing:
    """What sends the gateway's spans to where `environ` says; UNTRACED where it says nothing."""
    provider = open_provider(environ, "mcpcp-gateway")
    return UNTRACED if provider is None else SpanTracing(provider)


def open_provider(environ: Mapping[str, str], service: str) -> TracerProvider | None:
    """What sends the spans of `service`, unless `environ` has a name for it; None: nobody does."""
    if not any(environ.get(name) for name in ENDPOINTS):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        logger.warning(
            "no traces are sent, although OTEL_EXPORTER_OTLP_ENDPOINT is set: install the exporter"
            " with pip install 'mcpcp[otel]'"
        )
        return None
    named = {"service.name": environ.get("OTEL_SERVICE_NAME") or service}
    resource = Resource.create({**named, "service.version": __version__})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
