"""What the gateway counts, for Prometheus and for the supervisor's table.

Calls are counted in plain numbers (`histogram`), which become Prometheus' families when scraped.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)

from mcpcp import __version__, histogram
from mcpcp.histogram import Timings

MOST_SERIES: Final = 1000
"""Tools that are counted by name: a server that keeps inventing names does not fill our memory."""

OTHER: Final = "(other)"
"""The label of tools beyond that, and of methods that are not the protocol's."""

_REASONS: Final = (
    *("missing", "malformed", "signature", "expired", "revoked"),
    *("denied", "unknown", "withheld"),
    *("calls_per_minute", "in_flight", "arguments"),
)
"""Of tokens, names and limits; shown from the start, so that `rate` sees the first as a rise."""

_METHODS: Final = frozenset(
    {"tools/call", "prompts/get", "resources/read", "completion/complete"}
    | {"resources/subscribe", "resources/unsubscribe"}
)


@dataclass(frozen=True, slots=True)
class ServerFigures:
    """How the gateway's connection to one server stands."""

    name: str
    connected: bool
    restarts: int
    waiting: int
    withheld: int


class Operation:
    """One method of one tool: how its calls ended, their times, and how many are under way."""

    __slots__ = ("in_flight", "outcomes", "timings")

    def __init__(self) -> None:
        self.in_flight = 0
        self.outcomes = {"ok": 0, "error": 0}
        self.timings = Timings()


class Metrics:
    """Counters of one gateway; labels are servers, tools and outcomes, never a client's words."""

    def __init__(self, most_series: int = MOST_SERIES) -> None:
        self._most_series = most_series
        self.calls = self.errors = self.denied = self.in_flight = self.sessions = 0
        self._operations: dict[tuple[str, str, str], Operation] = {}
        self._denied = Counter(dict.fromkeys(_REASONS, 0))
        self._session_times = Timings()
        self._servers: tuple[ServerFigures, ...] = ()
        self._audit_failing = False
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def begin(self, server: str, method: str, tool: str) -> Operation:
        """Count a call that has come; what is returned is for `end`.

        Its series is there before its end: so even a first slow call is a rise to Prometheus.
        """
        operation = self._operations.get((server, method, tool))
        if operation is None:
            operation = self._admit(server, method, tool)
        operation.in_flight += 1
        self.in_flight += 1
        return operation

    def end(self, operation: Operation, outcome: str, seconds: float) -> None:
        """Count how it ended, and after how long."""
        self.in_flight -= 1
        operation.in_flight -= 1
        outcomes = operation.outcomes
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        operation.timings.observe(seconds)
        self.calls += 1
        if outcome != "ok":
            self.errors += 1

    def _admit(self, server: str, method: str, tool: str) -> Operation:
        if method not in _METHODS:
            method = tool = OTHER
        elif len(self._operations) >= self._most_series:
            tool = OTHER
        return self._operations.setdefault((server, method, tool), Operation())

    def deny(self, reason: str) -> None:
        """Count one refusal; `reason` is a word of ours."""
        self._denied[reason] += 1
        self.denied += 1

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """A client's session, from its first message to its end."""
        began = time.monotonic()
        self.sessions += 1
        try:
            yield
        finally:
            self.sessions -= 1
            self._session_times.observe(time.monotonic() - began)

    def render(self, servers: Iterable[ServerFigures], *, audit_failing: bool) -> bytes:
        """The text that Prometheus scrapes, with the servers as they are now."""
        self._servers = tuple(servers)
        self._audit_failing = audit_failing
        return generate_latest(self._registry) + self._histograms().encode()

    def _histograms(self) -> str:
        names = ("server", "mcp_method_name", "gen_ai_tool_name")
        calls = ((dict(zip(names, k, strict=True)), o.timings) for k, o in self._operations.items())
        return histogram.render(
            "mcp_server_operation_duration_seconds", "From a call's arrival to its answer.", calls
        ) + histogram.render(
            "mcp_server_session_duration_seconds",
            "How long sessions lasted.",
            [({}, self._session_times)],
        )

    def collect(self) -> Iterator[Metric]:
        """What prometheus_client asks its collectors."""
        yield InfoMetricFamily("mcpcp", "The version that runs.", {"version": __version__})
        yield from self._of_calls()
        yield GaugeMetricFamily("mcpcp_sessions", "Client sessions that are open.", self.sessions)
        yield from self._of_servers()
        yield GaugeMetricFamily(
            "mcpcp_audit_failing", "1 while calls can't be recorded.", float(self._audit_failing)
        )

    def _of_calls(self) -> Iterator[Metric]:
        calls = CounterMetricFamily(
            "mcpcp_calls", "Calls by outcome.", labels=("server", "tool", "outcome")
        )
        in_flight = GaugeMetricFamily(
            "mcpcp_calls_in_flight", "Calls under way.", labels=("server",)
        )
        under_way: Counter[str] = Counter()
        sums: Counter[tuple[str, str, str]] = Counter()
        for (server, _, tool), operation in self._operations.items():
            under_way[server] += operation.in_flight
            for outcome, count in operation.outcomes.items():
                sums[server, tool, outcome] += count
        for labels, count in sums.items():
            calls.add_metric(labels, count)
        for server, count in under_way.items():
            in_flight.add_metric((server,), count)
        denied = CounterMetricFamily("mcpcp_denied", "Refusals by reason.", labels=("reason",))
        for reason, count in self._denied.items():
            denied.add_metric((reason,), count)
        yield from (calls, in_flight, denied)

    def _of_servers(self) -> Iterator[Metric]:
        label = ("server",)
        up = GaugeMetricFamily("mcpcp_backend_up", "Whether it is connected.", labels=label)
        restarts = CounterMetricFamily(
            "mcpcp_backend_reconnects", "Connections beyond the first.", labels=label
        )
        waiting = GaugeMetricFamily(
            "mcpcp_calls_waiting", "Calls that wait for their turn at the server.", labels=label
        )
        withheld = GaugeMetricFamily(
            "mcpcp_tools_withheld", "Tools that changed and await approval.", labels=label
        )
        for server in self._servers:
            up.add_metric((server.name,), server.connected)
            restarts.add_metric((server.name,), server.restarts)
            waiting.add_metric((server.name,), server.waiting)
            withheld.add_metric((server.name,), server.withheld)
        yield from (up, restarts, waiting, withheld)
