"""What differs between two configs, so that a reload touches only that."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mcpcp.config.values import (
    Config,
    HealthCheck,
    Limits,
    RestartPolicy,
    ServerConfig,
    ToolRules,
)


@dataclass(frozen=True, slots=True)
class ConfigDiff:
    """Names of servers by what happened to them, and whether the other sections changed.

    A server of `respawn` (a part of `changed`) has to be started anew; the rest of `changed`
    differs only in how it is watched or offered. A disabled server counts as not there.
    """

    added: frozenset[str]
    removed: frozenset[str]
    changed: frozenset[str]
    respawn: frozenset[str]
    gateway: bool
    agents: bool

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.gateway or self.agents)


def diff(old: Config, new: Config) -> ConfigDiff:
    """What has to be done to get from `old` to `new`."""
    before, after = old.active, new.active
    both = before.keys() & after.keys()
    places = (old.keys_dir, old.data_dir) != (new.keys_dir, new.data_dir)
    return ConfigDiff(
        added=frozenset(after.keys() - before.keys()),
        removed=frozenset(before.keys() - after.keys()),
        changed=frozenset(n for n in both if before[n] != after[n]),
        respawn=frozenset(n for n in both if _process(before[n]) != _process(after[n])),
        gateway=old.gateway != new.gateway or places,
        agents=_agents(old) != _agents(new),
    )


def _agents(config: Config) -> tuple[object, ...]:
    return (config.agents, config.agent_limits, config.agent_search)


def _process(server: ServerConfig) -> ServerConfig:
    """The server without what its running process does not depend on."""
    return replace(
        server,
        restart=RestartPolicy(),
        health=HealthCheck(),
        limits=Limits(),
        metrics=None,
        tools=ToolRules(),
        headers={},
        depends_on=(),
        prefix="",
        timeout=0.0,
        concurrency=None,
        pin="off",
        unneeded=False,
        replicas=1,
    )
