"""One fleet a config, and the commands that handle it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

from tests.fleet import PATIENCE, Fleet


def test_a_second_launcher_says_where_the_first_one_is(fleet: Fleet) -> None:
    fleet.add("mcp1")
    first = fleet.launch()
    second = fleet.start(stderr=subprocess.PIPE)
    _, said = second.communicate(timeout=PATIENCE)
    assert second.returncode == 1
    assert f"pid {first.pid}" in said.decode()
    assert "status" in said.decode()
    assert first.poll() is None
    assert fleet.call("mcp1_echo", message="hi") == "hi"


def test_of_launchers_that_start_at_once_exactly_one_runs(fleet: Fleet) -> None:
    fleet.add("mcp1")
    launchers = [fleet.start() for _ in range(4)]
    fleet.wait_ready()
    fleet.until(lambda: sum(p.poll() is None for p in launchers) == 1, "the others have ended")
    assert [p.returncode for p in launchers if p.poll() is not None] == [1, 1, 1]


def test_a_fleet_starts_again_at_once_after_one_that_was_killed(fleet: Fleet) -> None:
    fleet.add("mcp1")
    first = fleet.launch()
    snapshot = fleet.status()
    assert snapshot is not None
    first.send_signal(signal.SIGKILL)
    first.wait()
    fleet.assert_nothing_left()
    fleet.launch()
    assert fleet.call("mcp1_echo", message="hi") == "hi"


def test_down_stops_a_fleet_in_the_foreground(fleet: Fleet) -> None:
    fleet.add("mcp1")
    launcher = fleet.launch()
    assert fleet.mcpcp("down").returncode == 0
    assert launcher.wait(PATIENCE) == 0


def test_status_answers_scripts_and_people(fleet: Fleet) -> None:
    port = fleet.add("mcp1")
    fleet.write()
    idle = fleet.mcpcp("status", "--json")
    assert idle.returncode == 3
    assert json.loads(idle.stdout)["servers"][0]["state"] == "STOPPED"
    fleet.launch()
    pid = fleet.call("mcp1_pid")
    fleet.until(lambda: calls(fleet) == 1, "the call was counted")
    told: dict[str, Any] = json.loads(fleet.mcpcp("status", "--json").stdout)
    row = told["servers"][0]
    assert (row["name"], row["state"], row["port"], row["restarts"]) == ("mcp1", "RUNNING", port, 0)
    assert row["pid"] == pid
    assert told["gateway"]["report"]["calls"] == 1
    shown = fleet.mcpcp("status")
    assert shown.returncode == 0
    assert "RUNNING" in shown.stdout
    assert str(port) in shown.stdout


def calls(fleet: Fleet) -> int:
    snapshot = fleet.status()
    return snapshot.gateway.calls if snapshot else 0


def test_restart_returns_when_the_new_process_answers(fleet: Fleet) -> None:
    fleet.add("mcp1")
    fleet.launch()
    before = fleet.call("mcp1_pid")
    done = fleet.mcpcp("restart", "mcp1")
    assert done.returncode == 0, done.stderr
    after = fleet.pid("mcp1")
    assert after not in (0, before)
    assert f"pid {after}" in done.stdout
    assert fleet.call("mcp1_pid") == after
    wrong = fleet.mcpcp("restart", "mcp2")
    assert wrong.returncode == 1
    assert "mcp1" in wrong.stderr


def test_logs_show_the_last_lines_and_follow(fleet: Fleet) -> None:
    fleet.add("mcp1")
    fleet.launch()
    fleet.until(lambda: "listening" in fleet.mcpcp("logs", "mcp1").stdout, "its first words")
    assert "mcp1" in fleet.mcpcp("logs", "mcp2").stderr
    following = subprocess.Popen(
        [sys.executable, "-m", "mcpcp", "logs", "-f", "mcp1", "--config", str(fleet.config)],
        stdout=subprocess.PIPE,
        env=fleet.environ,
        text=True,
    )
    assert following.stdout
    assert "listening" in following.stdout.readline()
    fleet.call("mcp1_echo", message="hi")
    while "tool=echo" not in (line := following.stdout.readline()):
        assert line
    following.send_signal(signal.SIGINT)
    assert following.wait(PATIENCE) == 0
    following.stdout.close()


def test_only_starts_what_is_named_and_what_it_needs(fleet: Fleet) -> None:
    for name, needs in (("mcp1", []), ("mcp2", ["mcp1"]), ("mcp3", [])):
        fleet.add(name, depends_on=needs)
    fleet.launch("--only", "mcp2")
    assert fleet.call("mcp2_echo", message="hi") == "hi"
    assert fleet.state("mcp1") == "RUNNING"
    assert fleet.state("mcp3") == "STOPPED"
    wrong = fleet.start("--only", "mcp9", "--config", str(fleet.config), stderr=subprocess.PIPE)
    assert wrong.communicate(timeout=PATIENCE)[1]
    assert wrong.returncode != 0


def test_json_events_tell_the_whole_life(fleet: Fleet) -> None:
    fleet.add("mcp1")
    launcher = fleet.start("--json", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert launcher.stdout
    events = []
    asked = False  # once: the second time is another wish
    while line := launcher.stdout.readline():
        events.append(event := json.loads(line))
        if event["event"] == "snapshot" and event["ready"] and not asked:
            launcher.send_signal(signal.SIGINT)
            asked = True
    assert launcher.wait(PATIENCE) == 0
    launcher.stdout.close()
    states = [e["state"] for e in events if e["event"] == "state" and e["name"] == "mcp1"]
    assert "RUNNING" in states
    assert states[-1] == "STOPPED"
    assert events[-1]["event"] == "finish"
