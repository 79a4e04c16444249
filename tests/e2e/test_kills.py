"""SIGKILL of every part: what must end ends, what must live lives, and nothing is left over."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.fleet import PATIENCE, CallFailed, Fleet
from tests.processes import alive, command


def kill(pid: int) -> None:
    assert pid
    os.kill(pid, signal.SIGKILL)


def zygote(fleet: Fleet) -> int:
    """The zygote's pid; 0 while there is none."""
    for process in fleet.processes():
        if " ".join(command(process)).startswith("mcpcp zygote"):
            return int(process.pid)
    return 0


def test_sigkill_of_the_launcher_ends_everything(fleet: Fleet) -> None:
    fleet.add("mcp1")
    launcher = fleet.launch()
    fleet.call("mcp1_breed", count=2)
    kill(launcher.pid)
    launcher.wait()
    fleet.assert_nothing_left()


def test_sigkill_of_the_supervisor_ends_everything_and_is_told(fleet: Fleet) -> None:
    fleet.add("mcp1")
    launcher = fleet.launch()
    fleet.call("mcp1_breed", count=2)
    snapshot = fleet.status()
    assert snapshot is not None
    kill(snapshot.pid)
    assert launcher.wait(PATIENCE) != 0
    assert "supervisor" in fleet.log()
    fleet.assert_nothing_left()


def test_sigkill_of_the_zygote_harms_no_server_and_a_new_one_comes(fleet: Fleet) -> None:
    fleet.add("mcp1")
    fleet.launch()
    old, server = fleet.until(lambda: zygote(fleet), "a zygote"), fleet.pid("mcp1")
    kill(old)
    assert fleet.until(lambda: zygote(fleet) not in (0, old), "another zygote")
    assert fleet.call("mcp1_pid") == server
    kill(server)
    fleet.wait_other("mcp1", server)
    assert fleet.call("mcp1_echo", message="hi") == "hi"


def test_a_server_killed_while_there_is_no_zygote_is_spawned(fleet: Fleet) -> None:
    fleet.add("mcp1")
    fleet.launch()
    server = fleet.pid("mcp1")
    kill(fleet.until(lambda: zygote(fleet), "a zygote"))
    kill(server)
    fleet.wait_other("mcp1", server)
    assert fleet.call("mcp1_echo", message="hi") == "hi"


def test_sigkill_of_the_gateway_costs_no_server_and_it_comes_back(fleet: Fleet) -> None:
    fleet.add("mcp1")
    fleet.launch()
    gateway, server = fleet.pid("gateway"), fleet.pid("mcp1")
    kill(gateway)
    fleet.wait_other("gateway", gateway)
    fleet.wait_ready()
    assert fleet.call("mcp1_pid") == server


def test_a_server_killed_in_mid_call_fails_that_call_at_once_and_serves_the_next(
    fleet: Fleet, tmp_path: Path
) -> None:
    fleet.add("mcp1", timeout="1h")
    fleet.add("mcp2")
    fleet.launch()
    note = tmp_path / "napping"
    failed: list[str] = []

    def nap() -> None:
        try:
            fleet.call("mcp1_nap", 6 * PATIENCE, seconds=3600, note=str(note))
        except CallFailed as error:
            failed.append(str(error))

    caller = threading.Thread(target=nap)
    caller.start()
    fleet.until(lambda: note.exists() and note.read_text(), "the call has begun")
    kill(int(note.read_text()))
    caller.join(PATIENCE)  # long before any deadline that the call has
    assert failed
    assert "mcp1" in failed[0]
    assert fleet.call("mcp2_echo", message="I live") == "I live"
    assert fleet.call("mcp1_echo", message="back") == "back"  # waits for the restart
    snapshot = fleet.status()
    assert snapshot is not None
    row = snapshot.fleet.get("mcp1")
    assert row is not None
    assert row.restarts == 1


def test_what_a_killed_server_had_started_dies_with_it(fleet: Fleet) -> None:
    fleet.add("mcp1")
    fleet.launch()
    bred: list[int] = fleet.call("mcp1_breed", count=4)
    assert all(map(alive, bred))
    kill(fleet.pid("mcp1"))
    fleet.until(lambda: not any(map(alive, bred)), "all grandchildren are gone")


@pytest.mark.parametrize("victim", ["launcher", "supervisor"])
def test_a_kill_during_the_start_leaves_nothing(fleet: Fleet, victim: str) -> None:
    fleet.add("mcp1", env={"SLOW": "3600"})
    launcher = fleet.start()
    snapshot: Any = fleet.until(fleet.status, "the supervisor answers")
    fleet.until(lambda: fleet.state("mcp1") == "STARTING", "mcp1 starts")
    kill(launcher.pid if victim == "launcher" else snapshot.pid)
    launcher.wait(PATIENCE)
    fleet.assert_nothing_left()
