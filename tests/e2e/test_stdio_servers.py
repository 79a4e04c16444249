"""The stdio servers, which the gateway owns, leave nothing behind either."""

from __future__ import annotations

import signal
import sys

from tests.fleet import PROJECT, Fleet
from tests.processes import command


def children_of(fleet: Fleet, word: str) -> list[int]:
    return [p.pid for p in fleet.processes() if any(word in part for part in command(p))]


def test_a_killed_gateway_takes_its_stdio_servers_along_and_gets_new_ones(fleet: Fleet) -> None:
    script = PROJECT / "servers" / "time_client.py"
    fleet.servers["clock"] = {"command": sys.executable, "args": [str(script)]}
    launcher = fleet.launch()
    assert fleet.call("clock_get_current_time")["timezone"] == "UTC"
    (before,) = children_of(fleet, "time_client.py")
    fleet.wait_other("gateway", fleet.signal("gateway", signal.SIGKILL))
    fleet.until(lambda: before not in children_of(fleet, "time_client.py"), "the old one is gone")
    fleet.wait_ready()
    assert fleet.call("clock_get_current_time")["timezone"] == "UTC"
    assert len(children_of(fleet, "time_client.py")) == 1
    assert fleet.stop(launcher) == 0
    fleet.assert_nothing_left()


def test_status_shows_a_stdio_server_and_restart_gives_it_a_new_process(fleet: Fleet) -> None:
    script = PROJECT / "servers" / "time_client.py"
    fleet.servers["clock"] = {"command": sys.executable, "args": [str(script)]}
    fleet.launch()

    def clock() -> tuple[str, int]:
        snapshot = fleet.status()
        rows = [p for p in snapshot.servers if p.name == "clock"] if snapshot else []
        return (str(rows[0].state), rows[0].pid or 0) if rows else ("", 0)

    fleet.until(lambda: clock()[0] == "RUNNING", "the table knows it")
    _, before = clock()
    assert fleet.mcpcp("restart", "clock").returncode == 0
    fleet.until(
        lambda: clock()[0] == "RUNNING" and clock()[1] not in (0, before), "it has a new process"
    )
    assert fleet.call("clock_get_current_time")["timezone"] == "UTC"


def test_only_leaves_stdio_servers_out_as_well(fleet: Fleet) -> None:
    script = PROJECT / "servers" / "time_client.py"
    fleet.servers["clock"] = {"command": sys.executable, "args": [str(script)]}
    fleet.add("mcp1")
    fleet.launch("--only", "mcp1")
    assert not children_of(fleet, "time_client.py")
    snapshot = fleet.status()
    assert snapshot is not None
    assert [(p.name, str(p.state)) for p in snapshot.servers if p.name == "clock"] == [
        ("clock", "STOPPED")
    ]
    assert fleet.call("mcp1_echo", message="hi") == "hi"
