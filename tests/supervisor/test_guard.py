"""What the guard does where the supervisor can't."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

from mcpcp.control import ControlClient
from mcpcp.supervisor import lock
from tests.fleet import PATIENCE, Fleet

PLAIN = Path(__file__).resolve().parents[1] / "programs" / "plain.py"


def test_a_supervisor_that_hangs_is_killed_when_the_user_insists(fleet: Fleet) -> None:
    fleet.add("s", PLAIN)
    launcher = fleet.start()
    fleet.until(lambda: fleet.pid("s"), "it runs")
    snapshot = fleet.status()
    assert snapshot
    os.kill(snapshot.pid, signal.SIGSTOP)
    launcher.send_signal(signal.SIGINT)
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(PATIENCE) == 1
    assert "the supervisor was ended by SIGKILL" in fleet.log()


def test_the_lock_names_the_process_that_the_user_sees(fleet: Fleet) -> None:
    fleet.add("s", PLAIN)
    launcher = fleet.start()
    fleet.until(fleet.status, "the supervisor answers")
    holder = lock.read_holder(fleet.runtime_dir)
    assert holder
    assert (holder.pid, holder.config) == (launcher.pid, str(fleet.config))
    assert fleet.stop(launcher) == 0
    assert list(fleet.runtime_dir.iterdir()) == []


def test_no_server_holds_the_lock(fleet: Fleet) -> None:
    fleet.add("s", PLAIN)
    fleet.start()
    pid = fleet.until(lambda: fleet.pid("s"), "it runs")
    held = str(fleet.runtime_dir / lock.LOCK)
    assert held not in opened(pid)
    assert held not in opened(fleet.until(lambda: fleet.pid("gateway"), "the gateway runs"))
    snapshot = fleet.status()
    assert snapshot
    assert held in opened(snapshot.pid)


def opened(pid: int) -> list[str]:
    """What a process has open; it goes on opening and closing meanwhile."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(link.readlink()))
    return found


def start_ignoring(fleet: Fleet, number: int) -> subprocess.Popen[bytes]:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        fleet.add("s", PLAIN)
        return fleet.start(preexec_fn=None)  # as deaf as we are
    finally:
        signal.signal(number, before)


def test_a_fleet_under_nohup_survives_its_terminal(fleet: Fleet) -> None:
    launcher = start_ignoring(fleet, signal.SIGHUP)
    running = fleet.until(lambda: fleet.pid("s"), "it runs")
    launcher.send_signal(signal.SIGHUP)
    with ControlClient.connect(fleet.runtime_dir) as client:
        client.ask("restart", name="s", timeout=PATIENCE)  # takes longer than a stop would
    assert fleet.pid("s") not in (0, running)
    assert fleet.stop(launcher, signal.SIGTERM) == 0


def test_a_background_job_of_a_shell_hears_sigint(fleet: Fleet) -> None:
    launcher = start_ignoring(fleet, signal.SIGINT)
    fleet.until(lambda: fleet.pid("s"), "it runs")
    assert fleet.stop(launcher, signal.SIGINT) == 0
