"""FleetState: the one immutable value that supervisor, gateway and view share, and its wire form."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class ProcessState(StrEnum):
    """supervisord's words for where a process stands."""

    STOPPED = "STOPPED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    BACKOFF = "BACKOFF"
    STOPPING = "STOPPING"
    EXITED = "EXITED"
    FATAL = "FATAL"


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One process as the outside sees it; times are seconds of the system's monotonic clock."""

    name: str
    state: ProcessState
    pid: int | None = None
    port: int | None = None
    since: float = 0.0
    restarts: int = 0
    next_try: float | None = None
    error: str | None = None
    cpu_percent: float | None = None
    memory_bytes: int | None = None
    health: str | None = None


@dataclass(frozen=True, slots=True)
class FleetState:
    """All processes at one moment; `version` grows with every change."""

    version: int = 0
    processes: tuple[ProcessStatus, ...] = ()

    def get(self, name: str) -> ProcessStatus | None:
        """The status of process `name`."""
        return next((p for p in self.processes if p.name == name), None)

    def to_wire(self) -> dict[str, Any]:
        """As JSON-able dicts."""
        return asdict(self)

    @classmethod
    def from_wire(cls, data: dict[str, Any]) -> FleetState:
        """The reverse of `to_wire`."""
        rows = (ProcessStatus(**{**p, "state": ProcessState(p["state"])}) for p in data["processes"])
        return cls(data["version"], tuple(rows))


@dataclass(frozen=True, slots=True)
class GatewayReport:
    """What the gateway tells the supervisor about itself, at most twice a second.

    `connections` counts what holds the fleet up (relays, HTTP sessions and streams); `servers` are
    the processes that the gateway itself owns: the stdio servers, and remote ones without a pid.
    """

    ready: bool = False
    calls: int = 0
    errors: int = 0
    denied: int = 0
    in_flight: int = 0
    connections: int = 0
    servers: tuple[ProcessStatus, ...] = field(default=())

    def to_wire(self) -> dict[str, Any]:
        """As JSON-able dicts."""
        return asdict(self)

    @classmethod
    def from_wire(cls, data: dict[str, Any]) -> GatewayReport:
        """The reverse of `to_wire`."""
        servers = FleetState.from_wire({"version": 0, "processes": data["servers"]}).processes
        return cls(**{**data, "servers": servers})
