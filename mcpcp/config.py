"""The config: one file for launcher, gateway and client, parsed once into frozen values.

The parser (`load`) is below; everything else in mcpcp is handed a `Config`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mcpcp.policy import Allowlist

Transport = Literal["stdio", "sse", "http"]


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
    start_timeout: float = 30.0
    stop_timeout: float = 5.0


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """How a server with a port is probed; times are seconds, `path` None means: the port is enough."""

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
    """Which of a server's tools are offered at all, by pattern, and under which name."""

    allow: tuple[str, ...] = ("*",)
    deny: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """One entry of `mcpServers`.

    Either `command` (ours to start) or `url` (somebody else's). A `command` of type sse or http has a
    `port` and is started by the supervisor; one of type stdio is started by the gateway.
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
    depends_on: tuple[str, ...] = ()
    restart: RestartPolicy = field(default_factory=RestartPolicy)
    health: HealthCheck = field(default_factory=HealthCheck)
    limits: Limits = field(default_factory=Limits)
    prefix: str = ""
    tools: ToolRules = field(default_factory=ToolRules)
    timeout: float = 60.0
    disabled: bool = False


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """The gateway: where it listens and how patient it is; times are seconds, `idle_exit` minutes."""

    host: str = "127.0.0.1"
    port: int = 9003
    anonymous: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    first_list_wait: float = 10.0
    drain: float = 10.0
    idle_exit: float = 10.0
    audit_required: bool = True


@dataclass(frozen=True, slots=True)
class Config:
    """Everything the file says, with paths made absolute against the file's folder."""

    path: Path
    servers: Mapping[str, ServerConfig]
    gateway: GatewayConfig
    agents: Mapping[str, Allowlist]
    keys_dir: Path
    data_dir: Path

    @property
    def root(self) -> Path:
        """The config file's folder: relative paths in it start here."""
        return self.path.parent
