"""Servers that hang, crash, flood, multiply, ports that are taken: told, contained, repaired."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from mcpcp.fleet import ProcessStatus
from tests.fleet import CallFailed, Fleet

QUICK_PROBES = {"path": "/health", "interval": "0.2s", "timeout": "0.5s", "failures": 2}


def row(fleet: Fleet, name: str) -> ProcessStatus:
    snapshot = fleet.status()
    assert snapshot is not None
    found = snapshot.fleet.get(name)
    assert found is not None
    return found


def test_a_server_that_hangs_is_restarted(fleet: Fleet) -> None:
    fleet.add("mcp1", health=QUICK_PROBES)
    fleet.launch()
    hung = fleet.pid("mcp1")
    os.kill(hung, signal.SIGSTOP)
    fleet.until(lambda: fleet.pid("mcp1") not in (0, hung), "another process serves")
    assert fleet.call("mcp1_echo", message="hi") == "hi"
    assert not fleet.processes() or hung not in [p.pid for p in fleet.processes()]


def test_a_hung_server_can_still_be_stopped(fleet: Fleet) -> None:
    fleet.add("mcp1", restart={"stop_timeout": "0.5s"})
    launcher = fleet.launch()
    os.kill(fleet.pid("mcp1"), signal.SIGSTOP)
    began = time.monotonic()
    assert fleet.stop(launcher) == 0
    assert time.monotonic() - began < 8


def test_a_crash_loop_ends_in_fatal_says_why_and_costs_nobody_else(fleet: Fleet) -> None:
    fleet.add("mcp1", env={"CRASH": "3"}, restart={"burst": 3})
    fleet.add("mcp2")
    fleet.launch()  # ready without it: it can't start
    fleet.until(lambda: fleet.state("mcp1") == "FATAL", "mcp1 is FATAL")
    error = row(fleet, "mcp1").error or ""
    assert "told to crash" in error
    assert fleet.call("mcp2_echo", message="hi") == "hi"
    try:
        fleet.call("mcp1_echo", message="hi")
    except CallFailed as refused:
        assert "mcp1" in str(refused)
    else:
        raise AssertionError("a dead server answered")


def test_a_fatal_server_comes_back_by_itself_when_its_cause_is_gone(
    fleet: Fleet, stranger: Callable[[int], socket.socket]
) -> None:
    port = fleet.add("mcp1", restart={"burst": 2, "slow_retry": "0.3s"})
    foreign = stranger(port)
    fleet.launch()
    fleet.until(lambda: fleet.state("mcp1") == "FATAL", "mcp1 is FATAL")
    foreign.close()
    fleet.until(lambda: fleet.state("mcp1") == "RUNNING", "mcp1 runs")
    assert fleet.until(lambda: echo(fleet), "its tools are back") == "hi"


def echo(fleet: Fleet) -> Any:
    try:
        return fleet.call("mcp1_echo", message="hi")
    except CallFailed:
        return None


def test_a_stranger_on_a_port_is_named_and_not_touched(
    fleet: Fleet, stranger: Callable[[int], socket.socket]
) -> None:
    port = fleet.add("mcp1", restart={"burst": 2})
    fleet.add("mcp2")
    foreign = stranger(port)
    fleet.launch()
    fleet.until(lambda: fleet.state("mcp1") in ("BACKOFF", "FATAL"), "mcp1 can't start")
    error = row(fleet, "mcp1").error or ""
    assert str(port) in error
    assert f"pid {os.getpid()}" in error
    assert re.search(r"\(.*py.*\)", error), "the stranger's command line is named"
    assert foreign.fileno() > 0
    with socket.create_connection(("127.0.0.1", port), 2):
        pass  # it still listens
    assert fleet.call("mcp2_echo", message="hi") == "hi"
    fleet.stop(fleet.launched[0])
    foreign.close()


def test_a_stranger_on_the_gateways_port_is_named(
    fleet: Fleet, stranger: Callable[[int], socket.socket]
) -> None:
    fleet.add("mcp1")
    foreign = stranger(int(fleet.gateway["port"]))
    launcher = fleet.start()
    fleet.until(lambda: f"pid {os.getpid()}" in fleet.log(), "the stranger is named")
    assert fleet.stop(launcher) == 0
    foreign.close()


def test_a_child_that_floods_its_output_disturbs_nobody(fleet: Fleet) -> None:
    fleet.add("mcp1")
    fleet.add("mcp2")
    fleet.launch("--plain")
    said = str(fleet.call("mcp1_flood", megabytes=300))
    assert float(said.split()[-2]) < 30, "the child never waits long for its log"
    began = time.monotonic()
    assert fleet.call("mcp2_echo", message="hi") == "hi"
    assert fleet.state("mcp1") == "RUNNING"
    assert time.monotonic() - began < 3
    logs = fleet.folder / "data" / "logs"
    assert sum(path.stat().st_size for path in logs.iterdir()) < 60 * 2**20
    assert row(fleet, "mcp1").restarts == 0


def test_thirty_servers_come_up_answer_and_leave_nothing(fleet: Fleet) -> None:
    names = [f"s{number}" for number in range(30)]
    for name in names:
        fleet.add(name)
    launcher = fleet.launch()
    pids = {fleet.call(f"{name}_pid") for name in names}
    assert len(pids) == 30
    assert fleet.stop(launcher) == 0
    fleet.assert_nothing_left(within=1)
