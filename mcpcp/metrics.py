"""What the gateway counts, for Prometheus and for the supervisor's table."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BOUNDS: Final = (*(str(float(bound)) for bound in _BUCKETS), "+Inf")


class Metrics:
    """Counters of one gateway; labels are servers, tools and outcomes, never a client's words."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.calls = self.errors = self.denied = self.in_flight = 0
        self._finished = _Finished()
        self.registry.register(self._finished)
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

    def observe(self, server: str, tool: str, outcome: str, seconds: float) -> None:
        """Count one finished call."""
        self._finished.count(server, tool, outcome, seconds)
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


class _Durations:
    """How long a tool's calls took: how many fell into each bucket, and their seconds together."""

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * len(_BOUNDS)
        self.seconds = 0.0


class _Finished(Collector):
    """Finished calls, counted in plain numbers: the library's locks cost more than the counting.

    They are in one event loop's hands, which renders them too.
    """

    def __init__(self) -> None:
        self._calls: dict[tuple[str, str, str], int] = {}
        self._durations: dict[tuple[str, str], _Durations] = {}

    def count(self, server: str, tool: str, outcome: str, seconds: float) -> None:
        """Count one."""
        key = (server, tool, outcome)
        self._calls[key] = self._calls.get(key, 0) + 1
        durations = self._durations.get(key[:2])
        if durations is None:
            durations = self._durations[key[:2]] = _Durations()
        durations.counts[bisect_left(_BUCKETS, seconds)] += 1
        durations.seconds += seconds

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        calls = CounterMetricFamily(
            "mcpcp_calls",
            "Tool calls by server, tool and outcome.",
            labels=("server", "tool", "outcome"),
        )
        for labels, number in self._calls.items():
            calls.add_metric(labels, number)
        yield calls
        durations = HistogramMetricFamily(
            "mcp_server_operation_duration_seconds",
            "Seconds from a tool call's arrival to its answer.",
            labels=("server", "tool"),
        )
        for tool, found in self._durations.items():
            durations.add_metric(tool, _cumulated(found.counts), found.seconds)
        yield durations


def _cumulated(counts: list[int]) -> list[tuple[str, float]]:
    """Prometheus's buckets: how many calls took at most that long."""
    return [(bound, sum(counts[: n + 1])) for n, bound in enumerate(_BOUNDS)]
