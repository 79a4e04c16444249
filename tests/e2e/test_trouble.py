"""Servers that hang, crash, flood, multiply, ports that are taken: told, contained, repaired."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mcpcp.fleet import ProcessStatus
from mcpcp.supervisor.logs import BURST, RATE
from tests.fleet import PATIENCE, CallFailed, Fleet
from tests.processes import alive

QUICK_PROBES = {"path": "/health", "interval": "0.2s", "timeout": "2s", "failures": 2}


def row(fleet: Fleet, name: str) -> ProcessStatus:
    snapshot = fleet.status()
    assert snapshot is not None
    found = snapshot.fleet.get(name)
    assert found is not None
    return found


def test_a_server_that_hangs_is_restarted(fleet: Fleet) -> None:
    fleet.add("mcp1", health=QUICK_PROBES)
    fleet.launch()
    hung = fleet.signal("mcp1", signal.SIGSTOP)
    fleet.wait_other("mcp1", hung)
    # On a machine that stands still the probes find one or the other of its successors hung, too.
    assert fleet.until(lambda: echo(fleet), "it serves again") == "hi"
    fleet.until(lambda: not alive(hung), "the one that hung is gone")


def test_a_hung_server_can_still_be_stopped(fleet: Fleet) -> None:
    fleet.add("mcp1", restart={"stop_timeout": "0.5s"})
    launcher = fleet.launch()
    fleet.signal("mcp1", signal.SIGSTOP)
    assert fleet.stop(launcher) == 0


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
    with socket.create_connection(("127.0.0.1", port), PATIENCE):
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
    megabytes = 300
    said = str(fleet.call("mcp1_flood", megabytes=megabytes))
    kept_back = (megabytes * 2**20 - BURST) / RATE
    assert float(said.split()[-2]) < kept_back, "the child never waits for its log"
    assert fleet.call("mcp2_echo", message="hi") == "hi"
    assert fleet.state("mcp1") == "RUNNING"
    assert size(fleet.folder / "data" / "logs") < 60 * 2**20
    assert row(fleet, "mcp1").restarts == 0


def size(folder: Path) -> int:
    """Bytes in its files, of which some may just be renamed."""
    total = 0
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def test_thirty_servers_come_up_answer_and_leave_nothing(fleet: Fleet) -> None:
    names = [f"s{number}" for number in range(30)]
    for name in names:
        fleet.add(name)
    launcher = fleet.launch()
    pids = {fleet.call(f"{name}_pid") for name in names}
    assert len(pids) == 30
    assert fleet.stop(launcher) == 0
    fleet.assert_nothing_left(within=0)
