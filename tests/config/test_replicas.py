"""`replicas`: what it means, and where it is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mcpcp import prometheus
from mcpcp.config import Config, load
from mcpcp.errors import ConfigError
from mcpcp.names import replica, server_of
from mcpcp.supervisor.specs import plan, stop_order

BASE = {"type": "http", "command": "tool", "port": 5001, "replicas": 3}


def read(folder: Path, servers: dict[str, Any], **rest: Any) -> Config:
    path = folder / "mcpcp.json"
    path.write_text(json.dumps({"mcpServers": servers, **rest}))
    return load(path, {})


def test_each_process_has_a_name_and_a_port(tmp_path: Path) -> None:
    flags = ["--listen", "{port}"]
    entry = {**BASE, "args": flags, "env": {"WHERE": "at {port}"}}
    after = {"command": "x", "port": 5010, "depends_on": ["a"]}
    config = read(tmp_path, {"a": entry, "after": after})
    specs = plan(config)
    assert list(specs) == ["gateway", "a", "a.2", "a.3", "after"]
    assert [specs[n].port for n in ("a", "a.2", "a.3")] == [5001, 5002, 5003]
    assert specs["a.2"].argv == ("tool", "--listen", "5002")
    assert specs["a.3"].env["WHERE"] == "at 5003"
    assert {specs[n].server for n in ("a", "a.2", "a.3")} == {"a"}
    before = stop_order(specs.values())
    assert all(before[n] == {"gateway", "after"} for n in ("a", "a.2", "a.3"))


def test_the_names_are_those_of_no_server() -> None:
    assert [replica("a-1", n) for n in (1, 2, 12)] == ["a-1", "a-1.2", "a-1.12"]
    assert [server_of(name) for name in ("a-1", "a-1.2", "a-1.12")] == ["a-1"] * 3


def test_each_process_is_scraped(tmp_path: Path) -> None:
    config = read(tmp_path, {"a": {**BASE, "metrics": "/metrics"}})
    (_, other) = prometheus.jobs(config, "127.0.0.1")
    found = [(target.address, target.labels["server"]) for target in other.targets]
    assert found == [(f"127.0.0.1:{port}", "a") for port in (5001, 5002, 5003)]


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"type": "sse"}, 'a.replicas: need "type": "http"'),
        ({"type": "service"}, "a.replicas: are for MCP servers"),
        ({"type": "stdio", "port": None}, 'a.replicas: need a port and "type": "http"'),
        ({"command": None, "port": None, "url": "http://x/mcp"}, "a.replicas: are not ours"),
        ({"command": "python", "args": ["servers/sandbox.py"]}, "a.replicas: do not work here"),
        ({"command": "python", "args": ["-m", "servers.battle"]}, "its journal"),
        ({"port": 65534}, "a.port: leaves no room for 3 replicas below 65535"),
        ({"replicas": 0}, "a.replicas: must be a whole number"),
        ({"replicas": 101}, "a.replicas: must be a whole number"),
    ],
)
def test_where_there_can_be_only_one_that_is_said(
    tmp_path: Path, entry: dict[str, Any], problem: str
) -> None:
    whole = {key: value for key, value in {**BASE, **entry}.items() if value is not None}
    with pytest.raises(ConfigError, match=problem.replace(".", r"\.")):
        read(tmp_path, {"a": whole})


def test_one_is_possible_everywhere(tmp_path: Path) -> None:
    config = read(tmp_path, {"a": {"command": "x", "replicas": 1}})
    assert [one.name for one in config.servers["a"].each()] == ["a"]


@pytest.mark.parametrize(
    ("others", "rest", "problem"),
    [
        (
            {"b": {"command": "x", "port": 5003}},
            {},
            "mcpServers.b.port: 5003 is the port of a already",
        ),
        (
            {"b": {**BASE, "port": 4999}},
            {},
            "b.port: 5001 is the port of a already; 3 replicas need 4999 to 5001",
        ),
        (
            {},
            {"gateway": {"port": 5002}},
            "a.port: 5002 is the port of the gateway already; 3 replicas need 5001 to 5003",
        ),
        ({}, {"monitoring": {"port": 5003}}, "5003 is the port of the supervisor's metrics"),
        (
            {"b": {"command": "x", "port": 5010, "calls": ["a"]}},
            {},
            r"b.calls[0]: a has replicas, and a server can call one process only",
        ),
    ],
)
def test_what_is_in_the_way_is_named(
    tmp_path: Path, others: dict[str, Any], rest: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, {"a": BASE, **others}, **rest)
    assert problem in str(refused.value)
