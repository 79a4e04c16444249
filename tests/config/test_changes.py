"""What a reload has to touch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mcpcp.config import ConfigDiff, diff, loads

PATH = Path("/nowhere/mcpcp.json")
BASE: dict[str, Any] = {
    "mcpServers": {
        "a": {"command": "x", "port": 5001},
        "b": {"command": "x", "port": 5002},
    },
    "agents": {"me": {"allow": {"a": ["*"]}}},
}


def changed(**servers: Any) -> ConfigDiff:
    """The difference that other entries make; None takes a server out."""
    entries = {n: e for n, e in {**BASE["mcpServers"], **servers}.items() if e is not None}
    return between({**BASE, "mcpServers": entries})


def between(new: dict[str, Any]) -> ConfigDiff:
    old, after = (loads(json.dumps(c), PATH, {}) for c in (BASE, new))
    return diff(old, after)


def test_the_same_config_needs_nothing() -> None:
    assert not between(BASE)


def test_only_the_server_that_changed_is_respawned() -> None:
    d = changed(a={"command": "x", "port": 5003})
    assert (d.changed, d.respawn) == (frozenset("a"), frozenset("a"))
    assert not (d.added or d.removed or d.gateway or d.agents)


def test_tools_and_limits_change_without_a_respawn() -> None:
    d = changed(a={"command": "x", "port": 5001, "tools": {"deny": ["x"]}, "timeout": 5})
    assert (d.changed, d.respawn) == (frozenset("a"), frozenset())


def test_pins_and_concurrency_change_without_a_respawn() -> None:
    d = changed(a={"command": "x", "port": 5001, "pin": "off", "concurrency": 2})
    assert (d.changed, d.respawn) == (frozenset("a"), frozenset())


def test_a_changed_limit_is_a_change_of_the_agents() -> None:
    held = {"me": {"allow": {"a": ["*"]}, "limits": {"in_flight": 2}}}
    d = between({**BASE, "agents": held})
    assert (d.agents, d.gateway, d.changed) == (True, False, frozenset())


def test_servers_come_and_go() -> None:
    d = changed(a=None, c={"command": "x"})
    assert (d.added, d.removed, d.changed) == (frozenset("c"), frozenset("a"), frozenset())


def test_a_disabled_server_is_gone() -> None:
    d = changed(a={"command": "x", "port": 5001, "disabled": True})
    assert (d.removed, d.changed) == (frozenset("a"), frozenset())


def test_gateway_and_agents_are_told_apart() -> None:
    d = between({**BASE, "gateway": {"port": 5009}})
    assert (d.gateway, d.agents) == (True, False)
    d = between({**BASE, "agents": {}})
    assert (d.gateway, d.agents) == (False, True)
