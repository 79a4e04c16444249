"""What the supervisor knows of its processes, as Prometheus' families. (pure)"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
)

from mcpcp.fleet import ProcessState, ProcessStatus, Snapshot

_LABEL = ("process",)


class FleetMetrics:
    """The text of /metrics; `look` tells how the fleet stands."""

    def __init__(self, look: Callable[[], Snapshot]) -> None:
        self._look = look
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """What prometheus_client asks its collectors."""
        snapshot = self._look()
        gateways = (*snapshot.fleet.processes, *snapshot.gateway.servers)
        yield from _of_processes(gateways)
        yield GaugeMetricFamily(
            "mcpcp_fleet_ready", "Whether all that can start has.", float(snapshot.ready)
        )
        yield GaugeMetricFamily(
            "mcpcp_config_refused",
            "1 while the config file, as it stands, is not in force.",
            float(snapshot.config_error is not None),
        )


def _of_processes(processes: tuple[ProcessStatus, ...]) -> Iterator[Metric]:
    states = GaugeMetricFamily(
        "mcpcp_process_state", "1 for the state it is in.", labels=("process", "state")
    )
    restarts = CounterMetricFamily(
        "mcpcp_process_restarts", "Starts after the first.", labels=_LABEL
    )
    healthy = GaugeMetricFamily(
        "mcpcp_process_healthy", "0: degraded, or its probe fails.", labels=_LABEL
    )
    cpu = GaugeMetricFamily("mcpcp_process_cpu_cores", "Cores in use by its tree.", labels=_LABEL)
    memory = GaugeMetricFamily(
        "mcpcp_process_memory_bytes", "Memory in use by its tree.", labels=_LABEL
    )
    for process in processes:
        name = (process.name,)
        for state in ProcessState:
            states.add_metric((process.name, state.value), float(process.state is state))
        restarts.add_metric(name, process.restarts)
        if process.state is ProcessState.RUNNING:
            healthy.add_metric(name, float((process.health or "ok") == "ok"))
        if process.cpu_percent is not None:
            cpu.add_metric(name, process.cpu_percent / 100)
        if process.memory_bytes is not None:
            memory.add_metric(name, process.memory_bytes)
    yield from (states, restarts, healthy, cpu, memory)
