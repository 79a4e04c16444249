"""The chat service's spans: one a request, and below it the model's answers and the tool calls.

A tool call's span is the parent of the gateway's. Without a collector a caller's own context goes
on to the gateway instead. Spans hold no messages, no arguments and no texts of errors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from mcpcp import __version__, requestid, tracecontext
from mcpcp.chat.metrics import Metrics
from mcpcp.tracing import open_provider, parent_of, propagator, say_last_words

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

_LONGEST_NAME: Final = 100

Kind = Callable[[BaseException], str]
"""A short word for how something ended."""


class Mark(Protocol):
    """What is under way."""

    def fail(self, kind: str) -> None:
        """It has failed, although nothing was raised."""


class Spans(Protocol):
    """Notes what is done while a context is open, or does not."""

    def request(self, path: str) -> AbstractContextManager[Mark]:
        """A caller's request."""

    def model(self, name: str) -> AbstractContextManager[Mark]:
        """An answer of the model `name`."""

    def tool(self, name: str) -> AbstractContextManager[Mark]:
        """A tool call."""

    def carried(self) -> dict[str, str]:
        """The context for the `_meta` of what is sent now."""

    def close(self) -> None:
        """Send what is left."""


class Unmarked:
    """Where nobody collects spans."""

    def fail(self, kind: str) -> None:
        """See Mark."""


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What the service tells of itself: counted, and as spans."""

    metrics: Metrics
    spans: Spans


class NoSpans:
    """See Spans."""

    def request(self, path: str) -> AbstractContextManager[Mark]:
        """See Spans."""
        return contextlib.nullcontext(Unmarked())

    model = tool = request

    def carried(self) -> dict[str, str]:
        """See Spans."""
        return dict(tracecontext.current())

    def close(self) -> None:
        """See Spans."""


class _SpanMark:
    def __init__(self, span: Span) -> None:
        self._span = span

    def fail(self, kind: str) -> None:
        """See Mark."""
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("error.type", kind)
        self._span.set_status(StatusCode.ERROR)


class SentSpans:
    """See Spans; a span is the parent of those that begin in its context."""

    def __init__(self, provider: TracerProvider, kind: Kind) -> None:
        self._provider = provider
        self._kind = kind
        self._tracer = provider.get_tracer("mcpcp-chat", __version__)

    def request(self, path: str) -> AbstractContextManager[Mark]:
        """See Spans."""
        attributes = {"http.route": path, "mcpcp.request": requestid.current()}
        return self._span(f"POST {path}", attributes, server=True)

    def model(self, name: str) -> AbstractContextManager[Mark]:
        """See Spans."""
        shown = name[:_LONGEST_NAME]
        attributes = {"gen_ai.operation.name": "chat", "gen_ai.request.model": shown}
        return self._span(f"chat {shown}", attributes)

    def tool(self, name: str) -> AbstractContextManager[Mark]:
        """See Spans."""
        attributes = {
            "mcp.method.name": "tools/call",
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": name,
        }
        return self._span(f"tools/call {name}", attributes)

    @contextlib.contextmanager
    def _span(
        self, name: str, attributes: Mapping[str, str], *, server: bool = False
    ) -> Iterator[Mark]:
        from opentelemetry.trace import SpanKind

        kind = SpanKind.SERVER if server else SpanKind.CLIENT
        with self._tracer.start_as_current_span(
            name,
            parent_of(None) if server else None,
            kind=kind,
            attributes=attributes,
            record_exception=False,  # its text may hold a caller's words
            set_status_on_exception=False,
        ) as span:
            mark = _SpanMark(span)
            try:
                yield mark
            except BaseException as error:
                mark.fail(self._kind(error))
                raise

    def carried(self) -> dict[str, str]:
        """See Spans."""
        carrier: dict[str, str] = {}
        propagator().inject(carrier)
        return carrier

    def close(self) -> None:
        """See Spans."""
        say_last_words(self._provider)


def open_spans(environ: Mapping[str, str], kind: Kind) -> Spans:
    """What sends the chat's spans to where `environ` says; NoSpans where it says nothing."""
    provider = open_provider(environ, "mcpcp-chat")
    return NoSpans() if provider is None else SentSpans(provider, kind)
