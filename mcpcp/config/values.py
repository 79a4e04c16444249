"""What the config file says, as frozen values; everything but the parser works with these."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from mcpcp import policy
from mcpcp.names import replica
from mcpcp.policy import Allowlist

Transport = Literal["stdio", "sse", "http", "service"]
Manager = Literal["supervisor", "gateway"]
PinPolicy = Literal["quarantine", "report", "off"]

PYTHON = frozenset({"python", "python3"})
"""Commands that mean the interpreter which runs mcpcp: its packages are then the server's too."""

PORT = "{port}"
"""Replaced by the server's port in its arguments and in the values of its environment."""


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When and how fast a server that ended is started again; times are seconds.

    After `burst` failed starts (a start fails when it ends or is not ready within `start_timeout`,
    or ends within `stable_after`) the server is FATAL and tried again only every `slow_retry`.
    """

    when: Literal["always", "on-failure", "never"] = "always"
    backoff: float = 0.05
    max_backoff: float = 30.0
    burst: int = 5
    slow_retry: float = 60.0
    stable_after: float = 5.0
    start_timeout: float = 60.0
    stop_timeout: float = 5.0


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """How a server with a port is probed; times are seconds, `path` None: the port is enough."""

    path: str | None = "/health"
    interval: float = 5.0
    timeout: float = 5.0
    failures: int = 3


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server's whole process tree may use before it is restarted."""

    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ToolRules:
    """Which of a server's tools are offered at all, by pattern, and in which words."""

    allow: tuple[str, ...] = ("*",)
    deny: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    describe: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """One entry of `mcpServers`.

    Either `command` (ours to start) or `url` (somebody else's). A `command` of type sse or http
    has a `port` and is started by the supervisor; one of type stdio is started by the gateway. A
    service is a supervised command with a port that speaks no MCP, such as a database. `unneeded`
    is a disabled server that those who depend on it do without. Of `replicas` each has a port, from
    `port` on. `own` is one of the project's own
    programs, and `metrics` the path of a server's metrics.
    """

    name: str
    transport: Transport
    command: str | None = None
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path = field(default_factory=Path)
    url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    port: int | None = None
    replicas: int = 1
    depends_on: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()
    restart: RestartPolicy = field(default_factory=RestartPolicy)
    health: HealthCheck = field(default_factory=HealthCheck)
    metrics: str | None = None
    own: bool = False
    limits: Limits = field(default_factory=Limits)
    prefix: str = ""
    tools: ToolRules = field(default_factory=ToolRules)
    timeout: float = 60.0
    disabled: bool = False
    unneeded: bool = False
    sessions: Literal["shared", "per_client"] = "shared"
    max_sessions: int = 32
    session_idle: float | None = 600.0
    concurrency: int | None = None
    pin: PinPolicy = "quarantine"

    @property
    def managed_by(self) -> Manager | None:
        """Who starts its process; nobody here where the entry is a `url`."""
        if self.command is None:
            return None
        return "gateway" if self.transport == "stdio" else "supervisor"

    @property
    def speaks_mcp(self) -> bool:
        """Whether the gateway connects to it."""
        return self.transport != "service"

    def each(self) -> tuple[ServerConfig, ...]:
        """An entry for each of its processes: name and port tell them apart."""
        if self.replicas == 1 or self.port is None:
            return (self,)
        first = self.port
        return tuple(
            replace(self, name=replica(self.name, i + 1), port=first + i, replicas=1)
            for i in range(self.replicas)
        )

    def reached_like(self, other: ServerConfig) -> bool:
        """Whether connections to it need not end for the other's sake: processes may come and go"""
        return self == replace(other, replicas=self.replicas)

    def argv(self) -> tuple[str, ...]:
        """The command line that starts it; empty for a `url`."""
        if self.command is None:
            return ()
        command = sys.executable if self.command in PYTHON else self.command
        return (command, *self._arguments())

    def _arguments(self) -> tuple[str, ...]:
        if self.port is None:
            return self.args
        told = any(PORT in text for text in (*self.args, *self.env.values()))
        if told or not self.speaks_mcp:
            return tuple(self._with_port(arg) for arg in self.args)
        listen = ("--transport", self.transport, "--host", "127.0.0.1", "--port", str(self.port))
        return (*self.args, *listen)

    def environment(self) -> dict[str, str]:
        """What `env` adds to the environment of its process."""
        return {name: self._with_port(value) for name, value in self.env.items()}

    def _with_port(self, text: str) -> str:
        return text if self.port is None else text.replace(PORT, str(self.port))

    def endpoint(self) -> str | None:
        """The URL that the gateway connects to; None where there is none."""
        if self.url is not None or self.port is None or not self.speaks_mcp:
            return self.url
        path = "/sse" if self.transport == "sse" else "/mcp"
        return f"http://127.0.0.1:{self.port}{path}"


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """Where the gateway listens, how patient it is; times are seconds, `idle_exit` minutes."""

    host: str = "127.0.0.1"
    port: int = 9003
    anonymous: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    first_list_wait: float = 10.0
    drain: float = 10.0
    idle_exit: float = 10.0
    search: bool = False
    audit_required: bool = True
    audit_max_bytes: int = 64 * 2**20


@dataclass(frozen=True, slots=True)
class ChatConfig:
    """What the chat service allows; times are seconds, `result_size` is characters."""

    agent: str = "chat"
    anonymous: bool = False
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    instructions: str = ""
    max_turns: int = 8
    parallel: int = 8
    call_timeout: float = 60.0
    timeout: float = 300.0
    stall: float = 120.0
    result_size: int = 20_000


@dataclass(frozen=True, slots=True)
class MonitoringConfig:
    """Where the supervisor serves metrics (`port` None: nowhere), and who may read anybody's."""

    token_file: Path
    port: int | None = None
    host: str = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class LogsConfig:
    """How log lines are written, and which."""

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"


@dataclass(frozen=True, slots=True)
class Config:
    """Everything the file says, with paths made absolute against the file's folder."""

    path: Path
    servers: Mapping[str, ServerConfig]
    gateway: GatewayConfig
    agents: Mapping[str, Allowlist]
    keys_dir: Path
    data_dir: Path
    monitoring: MonitoringConfig
    logs: LogsConfig = LogsConfig()
    warnings: tuple[str, ...] = ()
    agent_limits: Mapping[str, policy.Limits] = field(default_factory=dict)
    agent_search: Mapping[str, bool] = field(default_factory=dict)
    state_url: str | None = None
    chat: ChatConfig = field(default_factory=ChatConfig)

    @property
    def active(self) -> Mapping[str, ServerConfig]:
        """The servers that are not disabled."""
        return {name: server for name, server in self.servers.items() if not server.disabled}

    @property
    def chat_service(self) -> ServerConfig | None:
        """The entry that runs our own chat service, where there is one."""
        own = (s for s in self.active.values() if s.args[:3] == ("-m", "mcpcp", "chat"))
        return next(own, None)

    def searches(self, agent: str) -> bool:
        """Whether this agent sees the search tools instead of the list."""
        return self.agent_search.get(agent, self.gateway.search)

    @property
    def revocations_dir(self) -> Path:
        """Where revoked tokens are recorded."""
        return self.data_dir / "revocations"

    @property
    def pins_path(self) -> Path:
        """The lock file beside the config: the tools' definitions as they were first seen."""
        if self.path.suffix == ".lock":
            return self.path.with_name(self.path.name + ".lock")
        return self.path.with_suffix(".lock")

    @property
    def packages_path(self) -> Path:
        """What is known of packages for sandboxes: who may have which, and who has."""
        return self.data_dir / "packages"

    @property
    def audit_path(self) -> Path:
        """The audit log's current file."""
        return self.data_dir / "audit" / "audit.jsonl"

    @property
    def root(self) -> Path:
        """The config file's folder: relative paths in it start here."""
        return self.path.parent
