import json
import sys
from pathlib import Path
from typing import Any

import pytest

from mcpcp.config import Config, load
from mcpcp.errors import FleetError
from mcpcp.fleet import GATEWAY
from mcpcp.supervisor.specs import left_out, plan, stop_order


def write(folder: Path, servers: dict[str, Any]) -> Config:
    path = folder / "mcpcp.json"
    path.write_text(json.dumps({"mcpServers": servers, "agents": {}}))
    return load(path, {})


def server(port: int, *needs: str) -> dict[str, Any]:
    return {"command": "python", "args": ["s.py"], "port": port, "depends_on": list(needs)}


def test_the_plan_holds_the_gateway_and_the_servers_with_a_port(tmp_path: Path) -> None:
    config = write(
        tmp_path,
        {
            "a": server(4001),
            "pipes": {"command": "python", "args": ["s.py"]},
            "remote": {"url": "http://example.com/sse"},
            "off": {**server(4002), "disabled": True},
        },
    )
    specs = plan(config)
    assert list(specs) == [GATEWAY, "a"]
    assert specs[GATEWAY].argv[:4] == (sys.executable, "-m", "mcpcp", "serve")
    assert specs["a"].port == 4001
    assert specs["a"].cwd == tmp_path


def test_a_server_is_told_the_addresses_of_those_it_may_call(tmp_path: Path) -> None:
    servers = {"a": {**server(4001), "calls": ["b"]}, "b": server(4002)}
    before = plan(write(tmp_path, servers))
    assert before["a"].calls == {"b": "http://127.0.0.1:4002"}
    assert before["b"].calls == {}
    assert before["b"].env["MCPCP_DATA_DIR"] == str(tmp_path / "data")
    moved = plan(write(tmp_path, {**servers, "b": server(4003)}))
    assert not moved["a"].starts_like(before["a"])  # what it was told is not true any more


def test_only_brings_along_what_a_server_depends_on(tmp_path: Path) -> None:
    config = write(
        tmp_path, {"a": server(1, "b"), "b": server(2, "c"), "c": server(3), "d": server(4)}
    )
    specs = plan(config, ("a",))
    assert set(specs) == {GATEWAY, "a", "b", "c"}
    assert left_out(config, ("a",)) == ("d",)


def test_only_an_unknown_server_is_refused_by_name(tmp_path: Path) -> None:
    config = write(tmp_path, {"a": server(1)})
    with pytest.raises(FleetError, match=r"no server 'b': there are a"):
        plan(config, ("b",))


def test_a_changed_command_needs_a_restart_and_a_changed_policy_does_not(tmp_path: Path) -> None:
    before = plan(write(tmp_path, {"a": server(1)}))["a"]
    policy = plan(write(tmp_path, {"a": {**server(1), "restart": {"burst": 9}}}))["a"]
    env = plan(write(tmp_path, {"a": {**server(1), "env": {"X": "1"}}}))["a"]
    assert before.starts_like(policy)
    assert policy.restart.burst == 9
    assert not before.starts_like(env)


def test_the_gateway_stops_before_the_servers_and_these_before_what_they_need(
    tmp_path: Path,
) -> None:
    order = stop_order(plan(write(tmp_path, {"a": server(1, "b"), "b": server(2)})).values())
    assert order == {
        GATEWAY: frozenset(),
        "a": frozenset({GATEWAY}),
        "b": frozenset({GATEWAY, "a"}),
    }
