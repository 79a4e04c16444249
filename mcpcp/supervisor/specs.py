"""ProcessSpec: what the supervisor needs to know of a process, made from the config."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mcpcp.config import (
    PROJECT,
    Config,
    HealthCheck,
    Limits,
    RestartPolicy,
    ServerConfig,
)
from mcpcp.config.places import VARIABLE
from mcpcp.errors import FleetError
from mcpcp.fleet import GATEWAY
from mcpcp.names import server_of

DATA_VARIABLE = "MCPCP_DATA_DIR"
"""Where servers find the folder of what the fleet keeps."""

STOP_MARGIN = 15.0
"""Seconds that the gateway gets beyond its own drain deadline."""


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One process to keep alive; `env` is what it adds to the environment.

    `own` is a program of this project, which is trusted with the scrape token.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path = field(default_factory=Path)
    port: int | None = None
    host: str = "127.0.0.1"
    depends_on: tuple[str, ...] = ()
    calls: Mapping[str, str] = field(default_factory=dict)
    """Addresses of the servers that it may call, by name."""
    restart: RestartPolicy = field(default_factory=RestartPolicy)
    health: HealthCheck = field(default_factory=HealthCheck)
    limits: Limits = field(default_factory=Limits)
    own: bool = False
    reads: tuple[object, ...] = ()
    """What else of the config the process reads only when it starts."""

    @property
    def server(self) -> str:
        """The server whose process it is, maybe one of several."""
        return server_of(self.name)

    def starts_like(self, other: ProcessSpec) -> bool:
        """Whether a running process need not be restarted for the other's sake."""
        return _started(self) == _started(other)


def _started(spec: ProcessSpec) -> tuple[object, ...]:
    env, calls = dict(spec.env), dict(spec.calls)
    return (spec.argv, env, spec.cwd, spec.host, spec.port, calls, spec.reads)


def plan(config: Config, only: Iterable[str] | None = None) -> dict[str, ProcessSpec]:
    """All processes of the fleet, the gateway first; `only` brings along what it depends on."""
    servers = {n: s for n, s in config.active.items() if s.managed_by == "supervisor"}
    if only is not None:
        wanted = _with_dependencies(config, only)
        servers = {name: server for name, server in servers.items() if name in wanted}
    return {
        GATEWAY: _gateway(config),
        **{one.name: _server(one, servers, config) for s in servers.values() for one in s.each()},
    }


def left_out(config: Config, only: Iterable[str] | None) -> tuple[str, ...]:
    """Servers that `only` does not name, the gateway's own among them."""
    wanted = config.active.keys() if only is None else _with_dependencies(config, only)
    return tuple(name for name in config.active if name not in wanted)


def _with_dependencies(config: Config, only: Iterable[str]) -> set[str]:
    wanted: set[str] = set()
    todo = list(only)
    while todo:
        name = todo.pop()
        if name not in config.active:
            known = ", ".join(config.active) or "none"
            raise FleetError(f"{config.path} has no server {name!r}: there are {known}")
        if name not in wanted:
            wanted.add(name)
            needed = config.active[name].depends_on
            todo += (other for other in needed if not config.servers[other].unneeded)
    return wanted


def _server(
    server: ServerConfig, planned: Mapping[str, ServerConfig], config: Config
) -> ProcessSpec:
    # A service may be one of our own, which then is of the same config.
    own = {} if server.speaks_mcp else {VARIABLE: str(config.path)}
    return ProcessSpec(
        name=server.name,
        argv=server.argv(),
        env={DATA_VARIABLE: str(config.data_dir), **own, **server.environment()},
        cwd=server.cwd,
        port=server.port,
        depends_on=tuple(name for name in server.depends_on if name in planned),
        calls={n: f"http://127.0.0.1:{planned[n].port}" for n in server.calls if n in planned},
        restart=server.restart,
        health=server.health,
        limits=server.limits,
        own=server.own,
    )


def _gateway(config: Config) -> ProcessSpec:
    gateway = config.gateway
    return ProcessSpec(
        name=GATEWAY,
        argv=(sys.executable, "-m", "mcpcp", "serve", "--config", str(config.path)),
        env={"STATE_URL": config.state_url} if config.state_url else {},
        cwd=PROJECT,
        port=gateway.port,
        host=gateway.host,
        restart=RestartPolicy(stop_timeout=gateway.drain + STOP_MARGIN),
        reads=(gateway, config.keys_dir, config.data_dir, config.logs),
    )


def stop_order(specs: Iterable[ProcessSpec]) -> dict[str, frozenset[str]]:
    """Which processes must have stopped before each one: the gateway, and what depends on it."""
    specs = list(specs)
    before: dict[str, set[str]] = {spec.name: set() for spec in specs}
    for spec in specs:
        for needed in specs:
            if needed.server in spec.depends_on:
                before[needed.name].add(spec.name)
        if spec.name != GATEWAY and GATEWAY in before:
            before[spec.name].add(GATEWAY)
    return {name: frozenset(names) for name, names in before.items()}
