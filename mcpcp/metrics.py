"""What the gateway counts, for Prometheus and for the supervisor's table."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counters of one gateway; labels are servers, tools and outcomes, never a client's words."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.calls = self.errors = self.denied = self.in_flight = 0
        self._calls = Counter(
            "mcpcp_calls",
            "Tool calls by server, tool and outcome.",
            ("server", "tool", "outcome"),
            registry=self.registry,
        )
        self._duration = Histogram(
            "mcp_server_operation_duration_seconds",
            "Seconds from a tool call's arrival to its answer.",
            ("server", "tool"),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._denied = Counter(
            "mcpcp_denied",
            "Requests that were refused, by reason.",
            ("reason",),
            registry=self.registry,
        )
        Gauge(
            "mcpcp_calls_in_flight", "Tool calls under way.", registry=self.registry
        ).set_function(lambda: self.in_flight)
        self.sessions = Gauge(
            "mcpcp_sessions", "Client sessions that are open.", registry=self.registry
        )
        self._backend_up = Gauge(
            "mcpcp_backend_up",
            "Whether a tool server is connected.",
            ("server",),
            registry=self.registry,
        )
        self._children = lru_cache(maxsize=8192)(self._make_children)

    def _make_children(self, server: str, tool: str, outcome: str) -> tuple[Counter, Histogram]:
        return self._calls.labels(server, tool, outcome), self._duration.labels(server, tool)

    def observe(self, server: str, tool: str, outcome: str, seconds: float) -> None:
        """Count one finished call."""
        count, duration = self._children(server, tool, outcome)
        count.inc()
        duration.observe(seconds)
        self.calls += 1
        if outcome != "ok":
            self.errors += 1

    def deny(self, reason: str) -> None:
        """Count one refusal; `reason` is a word of ours."""
        self._denied.labels(reason).inc()
        self.denied += 1

    def show_servers(self, connected: Mapping[str, bool]) -> None:
        """Take over which servers are connected; one that the config has lost is forgotten."""
        self._backend_up.clear()
        for server, is_connected in connected.items():
            self._backend_up.labels(server).set(is_connected)

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)
