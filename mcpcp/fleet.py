"""FleetState: the immutable value that supervisor, gateway and view share, and its wire form."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from mcpcp.names import server_of

GATEWAY = "gateway"
"""The gateway's name among the supervisor's processes; no server may have it."""


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

    def of(self, server: str) -> tuple[ProcessStatus, ...]:
        """The statuses of all processes of that server."""
        return tuple(p for p in self.processes if server_of(p.name) == server)

    def to_wire(self) -> dict[str, Any]:
        """As JSON-able dicts."""
        return asdict(self)

    @classmethod
    def from_wire(cls, data: dict[str, Any]) -> FleetState:
        """The reverse of `to_wire`."""
        rows = (
            ProcessStatus(**{**p, "state": ProcessState(p["state"])}) for p in data["processes"]
        )
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


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that the supervisor can tell at one moment: what the view draws and `status` answers.

    `fleet` holds the supervisor's own processes, the gateway (named "gateway") among them;
    `gateway` is that process's last report; `config_error` says why the config file, as it stands,
    is not in force; `idle_exit` is in minutes, None where nothing ends the fleet by itself.
    """

    fleet: FleetState
    gateway: GatewayReport = GatewayReport()
    pid: int = 0
    guard: int | None = None
    config: str = ""
    started: float = 0.0
    ready: bool = False
    stopping: bool = False
    config_error: str | None = None
    background: bool = False
    idle_exit: float | None = None

    @property
    def servers(self) -> tuple[ProcessStatus, ...]:
        """Every tool server's status, whoever owns its process."""
        return (*(p for p in self.fleet.processes if p.name != GATEWAY), *self.gateway.servers)

    def to_wire(self) -> dict[str, Any]:
        """As `status --json` prints it: `servers` is a list of statuses, each with its `owner`."""
        own = [{**asdict(p), "owner": "supervisor"} for p in self.fleet.processes]
        theirs = [{**asdict(p), "owner": "gateway"} for p in self.gateway.servers]
        process = next((row for row in own if row["name"] == GATEWAY), {})
        report = {k: v for k, v in self.gateway.to_wire().items() if k != "servers"}
        rest = {k: getattr(self, k) for k in _PLAIN}
        return {
            "servers": [row for row in own if row["name"] != GATEWAY] + theirs,
            "gateway": {**process, "report": report},
            "version": self.fleet.version,
            **rest,
        }

    @classmethod
    def from_wire(cls, data: dict[str, Any]) -> Snapshot:
        """The reverse of `to_wire`."""
        gateway = dict(data["gateway"])
        report = gateway.pop("report")
        rows = [*([gateway] if gateway else []), *data["servers"]]
        by_owner: dict[str, list[dict[str, Any]]] = {"supervisor": [], "gateway": []}
        for row in rows:
            by_owner[row["owner"]].append({k: v for k, v in row.items() if k != "owner"})
        return cls(
            fleet=FleetState.from_wire(
                {"version": data["version"], "processes": by_owner["supervisor"]}
            ),
            gateway=GatewayReport.from_wire({**report, "servers": by_owner["gateway"]}),
            **{k: data[k] for k in _PLAIN},
        )


_PLAIN = (
    "pid",
    "guard",
    "config",
    "started",
    "ready",
    "stopping",
    "config_error",
    "background",
    "idle_exit",
)
