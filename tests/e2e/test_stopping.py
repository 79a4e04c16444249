"""Every way to stop: signals, twice, too early, a closed terminal, children that do not listen."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.fleet import PATIENCE, CallFailed, Fleet
from tests.terminal import terminal


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_stops_everything_with_one_line_and_exit_code_0(fleet: Fleet, name: str) -> None:
    fleet.add("mcp1")
    fleet.add("mcp2", depends_on=["mcp1"])
    launcher = fleet.launch()
    assert fleet.stop(launcher, getattr(signal, name)) == 0
    last = fleet.log().splitlines()[-1]
    assert "stopped 2 servers" in last
    assert "Traceback" not in fleet.log()
    fleet.assert_nothing_left(within=0)


def test_the_gateway_stops_first_and_a_server_after_what_depends_on_it(fleet: Fleet) -> None:
    fleet.add("mcp1")
    fleet.add("mcp2", depends_on=["mcp1"])
    fleet.stop(fleet.launch())
    log = fleet.log()
    ends = [log.rindex(f"| {name} STOPPED") for name in ("gateway", "mcp2", "mcp1")]
    assert ends == sorted(ends)


def test_a_call_in_flight_is_finished_before_the_gateway_stops(
    fleet: Fleet, tmp_path: Path
) -> None:
    fleet.gateway["drain"] = "10m"
    fleet.add("mcp1")
    launcher = fleet.launch()
    note = tmp_path / "napping"
    answers: list[Any] = []
    caller = threading.Thread(
        target=lambda: answers.append(fleet.call("mcp1_nap", seconds=1.5, note=str(note)))
    )
    caller.start()
    fleet.until(note.exists, "the call has begun")
    assert fleet.stop(launcher) == 0
    caller.join(PATIENCE)
    assert answers == ["slept 1.5"]


def test_a_call_longer_than_the_drain_deadline_is_given_up(fleet: Fleet, tmp_path: Path) -> None:
    fleet.gateway["drain"] = "0.5s"
    fleet.add("mcp1", timeout="1h")
    launcher = fleet.launch()
    note = tmp_path / "napping"
    failed: list[str] = []

    def nap() -> None:
        try:
            fleet.call("mcp1_nap", 6 * PATIENCE, seconds=3600, note=str(note))
        except CallFailed as error:
            failed.append(str(error))

    caller = threading.Thread(target=nap)
    caller.start()
    fleet.until(note.exists, "the call has begun")
    assert fleet.stop(launcher) == 0  # long before the nap is over
    caller.join(PATIENCE)
    assert failed


def test_a_child_that_ignores_term_is_killed_after_its_deadline(fleet: Fleet) -> None:
    fleet.add("mcp1", restart={"stop_timeout": "0.5s"})
    launcher = fleet.launch()
    fleet.call("mcp1_ignore_term")
    began = time.monotonic()
    assert fleet.stop(launcher) == 0
    assert time.monotonic() - began > 0.5
    assert "mcp1 did not stop within 0.5 s: killed" in fleet.log()


def test_grandchildren_that_ignore_term_are_gone_after_a_stop(fleet: Fleet) -> None:
    fleet.add("mcp1", restart={"stop_timeout": "0.5s"})
    launcher = fleet.launch()
    fleet.call("mcp1_breed", count=4)
    assert fleet.stop(launcher) == 0
    fleet.assert_nothing_left(within=0)


def test_a_second_ctrl_c_kills_at_once(fleet: Fleet) -> None:
    fleet.add("mcp1", restart={"stop_timeout": "1h"})
    launcher = fleet.launch()
    fleet.call("mcp1_ignore_term")
    launcher.send_signal(signal.SIGINT)
    fleet.until(lambda: fleet.state("mcp1") == "STOPPING", "mcp1 is stopping")
    launcher.send_signal(signal.SIGINT)
    launcher.wait(PATIENCE)  # long before mcp1's own deadline
    fleet.assert_nothing_left(within=0)


@pytest.mark.parametrize("moment", ["at once", "supervisor", "servers"])
def test_ctrl_c_during_the_start_leaves_nothing(fleet: Fleet, moment: str) -> None:
    fleet.add("mcp1", env={"SLOW": "3600"})
    fleet.add("mcp2")
    launcher = fleet.start()
    if moment == "supervisor":
        fleet.until(fleet.status, "the supervisor answers")
    elif moment == "servers":
        fleet.until(lambda: fleet.state("mcp2") == "RUNNING", "mcp2 runs")
    code = fleet.stop(launcher)
    fleet.assert_nothing_left()
    said = fleet.log()
    if moment == "at once" and "KeyboardInterrupt" in said and ", in main" not in said:
        return  # Python itself was only coming up, and told it in its own way
    # It may not have begun even that, and then the system's default ends it.
    assert code in ({0, 130, -signal.SIGINT} if moment == "at once" else {0})
    assert "Traceback" not in said


def test_signals_that_come_while_it_ends_are_no_news(fleet: Fleet) -> None:
    fleet.add("mcp1")
    launcher = fleet.launch()
    (supervisor,) = psutil.Process(launcher.pid).children()

    def send_until_it_is_gone() -> None:
        with contextlib.suppress(ProcessLookupError):
            while supervisor.is_running():  # never another process that got its pid
                os.kill(supervisor.pid, signal.SIGCHLD)

    sender = threading.Thread(target=send_until_it_is_gone)
    sender.start()
    assert fleet.stop(launcher) == 0
    sender.join(PATIENCE)
    assert "Bad file descriptor" not in fleet.log()  # so many may be too many for the pipe to it


def on_terminal(descriptor: int) -> dict[str, Any]:
    """Popen's options for a program whose controlling terminal that is."""

    def control() -> None:
        os.setsid()
        import fcntl
        import termios

        fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)

    streams = dict.fromkeys(("stdin", "stdout", "stderr"), descriptor)
    return {**streams, "preexec_fn": control, "env": {"TERM": "xterm-256color"}}


def test_the_table_shows_the_fleet_and_ctrl_c_in_the_terminal_stops_it(fleet: Fleet) -> None:
    fleet.add("mcp1")
    with terminal(120, 30) as screen:
        launcher = fleet.launch(**on_terminal(screen.descriptor))
        shown = screen.wait_for("1 of 1 servers up")
        pid = fleet.pid("mcp1")
        assert any("mcp1" in line and f" {pid} " in line and "RUNNING" in line for line in shown)
        screen.type(b"\x03")
        assert launcher.wait(PATIENCE) == 0
        screen.wait_for("stopped 1 server")


def test_a_closed_terminal_stops_everything(fleet: Fleet) -> None:
    fleet.add("mcp1")
    master, slave = pty.openpty()
    launcher = fleet.launch(**on_terminal(slave))
    os.close(slave)
    os.close(master)
    launcher.wait(PATIENCE)
    fleet.assert_nothing_left(within=0)


def test_a_stopped_terminal_stops_nothing_and_the_fleet_still_ends(fleet: Fleet) -> None:
    fleet.add("mcp1")
    with terminal(120, 30) as screen:
        launcher = fleet.launch(**on_terminal(screen.descriptor))
        screen.wait_for("1 of 1 servers up")
        screen.type(b"\x13")  # Ctrl+S
        for number in range(50):
            assert fleet.call("mcp1_echo", message=str(number)) == str(number)
        fleet.wait_other("mcp1", fleet.signal("mcp1", signal.SIGKILL))
        launcher.send_signal(signal.SIGTERM)
        launcher.wait(PATIENCE)
        fleet.assert_nothing_left(within=0)


def test_nobody_reading_the_output_stops_nothing(fleet: Fleet) -> None:
    fleet.add("mcp1")
    reading, writing = os.pipe()
    launcher = fleet.launch("--plain", stdout=writing, stderr=writing)
    os.close(writing)
    os.close(reading)
    fleet.call("mcp1_flood", megabytes=1)
    assert fleet.call("mcp1_echo", message="hi") == "hi"
    assert fleet.stop(launcher) == 0
