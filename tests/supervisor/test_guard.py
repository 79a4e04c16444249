"""What the guard does where the supervisor can't."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from mcpcp.supervisor import lock
from tests.fleet import Fleet

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
    assert launcher.wait(20) == 1
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
    links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
    assert held not in links
    gateway = fleet.until(lambda: fleet.pid("gateway"), "the gateway runs")
    links = [str(link.readlink()) for link in Path(f"/proc/{gateway}/fd").iterdir()]
    assert held not in links


@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT"])
def test_a_signal_that_was_ignored_before_stays_ignored(fleet: Fleet, name: str) -> None:
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_IGN)  # as nohup, or a shell's `&`, starts programs
    try:
        fleet.add("s", PLAIN)
        launcher = fleet.start()
    finally:
        signal.signal(number, before)
    running = fleet.until(lambda: fleet.pid("s"), "it runs")
    launcher.send_signal(number)
    launcher.send_signal(signal.SIGCONT)
    assert fleet.status()
    assert fleet.pid("s") == running
    assert fleet.stop(launcher, signal.SIGTERM) == 0
