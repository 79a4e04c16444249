"""What the chat service counts, for Prometheus; labels are words of ours, never a client's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from mcpcp.scraping import admits

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, which nobody asks for

MODEL_FAILURES: Final = (
    *("unreachable", "stalled", "rate_limited", "model_missing", "refused", "broken"),
)
"""Kinds of ModelError."""

OUTCOMES: Final = (
    *("ok", "cancelled", "timeout", "unauthorized", "invalid_request"),
    *("gateway_unavailable", "gateway_error"),
    *(f"model_{kind}" for kind in MODEL_FAILURES),
)
"""How requests end, see `edge.outcome`."""

_LLM_BUCKETS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)
_TOOL_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counters of one chat service, for who shows the fleet's scrape token; for nobody without."""

    def __init__(self, scrape_token: str | None = None) -> None:
        self._scrape_token = scrape_token
        self._registry = registry = CollectorRegistry()
        self.in_flight = Gauge("chat_in_flight", "Requests under way.", registry=registry)
        self._requests = Counter(
            "chat_requests", "Requests to the model by outcome.", ("outcome",), registry=registry
        )
        self._llm = Histogram(
            "chat_llm_duration_seconds",
            "Seconds from asking the model to the end of its answer.",
            ("outcome",),
            buckets=_LLM_BUCKETS,
            registry=registry,
        )
        self._tokens = Counter(
            "chat_tokens", "Tokens that the model counted.", ("kind",), registry=registry
        )
        self._tools = Counter(
            "chat_tool_calls", "Tool calls by outcome.", ("outcome",), registry=registry
        )
        # From the start, so that `rate` sees the first one as a rise.
        for kind in ("ok", *MODEL_FAILURES):
            self._llm.labels(kind)
        for outcome in OUTCOMES:
            self._requests.labels(outcome)
        for outcome in ("ok", "error", "mistake"):
            self._tools.labels(outcome)
        self._tool_duration = Histogram(
            "chat_tool_call_duration_seconds",
            "Seconds from a tool call's start to its end.",
            buckets=_TOOL_BUCKETS,
            registry=registry,
        )

    def finished(self, outcome: str) -> None:
        """Count a request that came to its end."""
        self._requests.labels(outcome).inc()

    def asked(self, outcome: str, seconds: float) -> None:
        """Count one answer of the model."""
        self._llm.labels(outcome).observe(seconds)

    def used(self, usage: Mapping[str, int]) -> None:
        """Count the tokens of one answer."""
        self._tokens.labels("prompt").inc(usage.get("prompt_tokens", 0))
        self._tokens.labels("completion").inc(usage.get("completion_tokens", 0))

    def called(self, outcome: str, seconds: float) -> None:
        """Count one tool call."""
        self._tools.labels(outcome).inc()
        self._tool_duration.observe(seconds)

    def may_read(self, shown: str | None) -> bool:
        """Whether that token may read them."""
        return self._scrape_token is not None and admits(self._scrape_token, shown)

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self._registry)
