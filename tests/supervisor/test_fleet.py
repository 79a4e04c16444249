"""The supervisor as a whole, by the real launcher, with servers that start in no time."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from mcpcp.control import CONTROL_SOCKET, ControlClient, connect_private
from mcpcp.errors import FleetError
from mcpcp.fleet import ProcessStatus
from mcpcp.supervisor import lock
from tests import processes
from tests.fleet import PATIENCE, Fleet
from tests.processes import alive

PLAIN = Path(__file__).resolve().parents[1] / "programs" / "plain.py"


def row(fleet: Fleet, name: str) -> ProcessStatus:
    snapshot = fleet.status()
    found = snapshot and snapshot.fleet.get(name)
    assert found
    return found


def running(fleet: Fleet, *names: str) -> dict[str, int]:
    """The pids of those servers, once they run."""
    fleet.until(lambda: all(map(fleet.pid, names)), f"{names} run")
    return {name: fleet.pid(name) for name in names}


def get(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE) as answer:
        return json.load(answer)


def test_a_server_over_its_memory_limit_is_restarted_and_that_is_told(fleet: Fleet) -> None:
    port = fleet.add("s", PLAIN, limits={"memory": "150MiB"})
    fleet.start()
    before = running(fleet, "s")["s"]
    with contextlib.suppress(OSError):  # it may be stopped before it has answered
        get(port, "/eat?mib=200")
    fleet.wait_other("s", before)
    assert "its limit is 150 MiB" in (row(fleet, "s").error or "")


def test_memory_and_cpu_are_measured(fleet: Fleet) -> None:
    fleet.add("s", PLAIN)
    fleet.start()
    running(fleet, "s")
    fleet.until(lambda: row(fleet, "s").memory_bytes, "its memory is known")
    assert 5 << 20 < (row(fleet, "s").memory_bytes or 0) < 500 << 20
    assert row(fleet, "s").cpu_percent is not None


def test_a_server_starts_after_what_it_depends_on(fleet: Fleet) -> None:
    seen = fleet.folder / "seen"
    slow = fleet.add("slow", PLAIN, env={"AFTER": str(seen)})
    fleet.add("s", PLAIN, depends_on=["slow"])
    fleet.start()
    waiting = fleet.until(
        lambda: fleet.status() and "waits" in (row(fleet, "s").error or "") and row(fleet, "s"),
        "it waits",
    )
    assert (waiting.state, waiting.error) == ("STARTING", "waits for slow")
    seen.touch()
    running(fleet, "s")
    assert get(slow, "/health")


def test_a_server_whose_dependency_is_fatal_is_stopped_and_says_so(fleet: Fleet) -> None:
    fleet.add("broken", PLAIN, env={"CRASH": "3"}, restart={"burst": 2})
    fleet.add("s", PLAIN, depends_on=["broken"])
    fleet.start()
    fleet.until(lambda: fleet.state("s") == "STOPPED", "it has given up waiting")
    assert row(fleet, "s").error == "waits for broken"
    why = "exited with code 3: error: this server was told to crash"
    assert row(fleet, "broken").error == why


def test_only_starts_what_it_names_and_shows_the_rest_as_stopped(fleet: Fleet) -> None:
    for name in ("a", "b"):
        fleet.add(name, PLAIN)
    fleet.start("--only", "b")
    running(fleet, "b")
    assert row(fleet, "a").state == "STOPPED"
    assert "--only" in (row(fleet, "a").error or "")


def test_restart_gives_a_new_process_and_returns_when_it_serves(fleet: Fleet) -> None:
    port = fleet.add("s", PLAIN)
    fleet.start()
    before = running(fleet, "s")["s"]
    with ControlClient.connect(fleet.runtime_dir) as client:
        assert client.ask("restart", name="s", timeout=PATIENCE) == {"ok": True}
    assert get(port, "/health")["pid"] == fleet.pid("s") != before
    assert row(fleet, "s").restarts == 1


def test_the_control_socket_says_what_is_wrong_with_a_question(fleet: Fleet) -> None:
    fleet.add("s", PLAIN, env={"CRASH": "1"})
    fleet.start()
    fleet.until(fleet.status, "the supervisor answers")
    with ControlClient.connect(fleet.runtime_dir) as client:
        with pytest.raises(FleetError, match="no operation 'dance': there are status"):
            client.ask("dance")
        with pytest.raises(FleetError, match="no server 'x': there are gateway, s"):
            client.ask("restart", name="x")
        with pytest.raises(FleetError, match="needs the name"):
            client.ask("restart")
        with pytest.raises(FleetError, match="s is BACKOFF: exited with code 1"):
            client.ask("restart", name="s", timeout=PATIENCE)
        with pytest.raises(FleetError, match="runs in a terminal already"):
            next(client.adopt())
    with connect_private(fleet.runtime_dir / CONTROL_SOCKET) as connection:
        connection.sendall(b"[1\n")
        assert b"one line of JSON" in connection.recv(4096)


def test_a_process_that_has_left_its_server_ends_with_it(fleet: Fleet) -> None:
    port = fleet.add("s", PLAIN)
    fleet.start()
    server = running(fleet, "s")["s"]
    stray = int(get(port, "/stray?clean=1")["pid"])
    assert alive(stray)
    psutil.Process(server).kill()
    fleet.until(lambda: not alive(stray), "it is gone")


def test_strays_of_one_server_do_not_end_with_another(fleet: Fleet) -> None:
    port = fleet.add("a", PLAIN)
    fleet.add("b", PLAIN)
    fleet.start()
    pids = running(fleet, "a", "b")
    stray = int(get(port, "/stray")["pid"])
    # The supervisor must have seen, by looking now and then, that it has adopted somebody.
    fleet.until(lambda: row(fleet, "a").cpu_percent is not None, "a look at a")
    psutil.Process(pids["b"]).kill()
    fleet.wait_other("b", pids["b"])
    assert alive(stray)
    psutil.Process(pids["a"]).kill()
    fleet.until(lambda: not alive(stray), "it is gone")


def test_the_answer_may_come_from_a_child_of_what_was_started(fleet: Fleet) -> None:
    script = f'{sys.executable} {PLAIN} "$@" & wait'
    fleet.add("s", command="/bin/sh", args=["-c", script, "sh"])
    fleet.start()
    shell = running(fleet, "s")["s"]
    assert processes.name(psutil.Process(shell)) == "sh"


def test_a_server_without_health_is_up_when_its_port_is(fleet: Fleet) -> None:
    port = fleet.add("s", PLAIN, health={"path": None})
    fleet.start()
    running(fleet, "s")
    assert row(fleet, "s").health == "ok"
    assert get(port, "/health")


def test_a_stranger_that_answers_for_a_server_is_not_believed(fleet: Fleet, free_port: Any) -> None:
    other = free_port()
    command = [sys.executable, str(PLAIN), "--port", str(other)]
    with subprocess.Popen(command) as stranger, contextlib.ExitStack() as ending:
        ending.callback(stranger.kill)
        # It claims the stranger's port as its own, and listens nowhere itself.
        program = "import time; time.sleep(600)"
        fleet.add("s", command=sys.executable, args=["-c", program, "{port}"], port=other)
        fleet.start()
        fleet.until(lambda: f"pid {stranger.pid}" in (row_error(fleet, "s")), "it is named")
        assert fleet.state("s") != "RUNNING"
        assert alive(stranger.pid)


def test_a_server_takes_its_port_as_soon_as_a_stranger_leaves_it(
    fleet: Fleet, stranger: Callable[[int], socket.socket]
) -> None:
    port = fleet.add("s", PLAIN, restart={"burst": 1, "slow_retry": "1h"})
    taken = stranger(port)
    fleet.start()
    fleet.until(lambda: fleet.state("s") == "FATAL", "it gives up")
    assert f"port {port} is used by pid {os.getpid()} (" in row_error(fleet, "s")
    taken.close()
    running(fleet, "s")


def test_a_port_that_one_of_our_own_still_holds_is_waited_for(fleet: Fleet) -> None:
    late = {"backoff": "1h", "max_backoff": "1h", "stable_after": "1h"}
    port = fleet.add("s", PLAIN, restart=late)
    holder = fleet.add("holder", PLAIN)
    fleet.start()
    running(fleet, "s", "holder")
    fleet.signal("s", signal.SIGKILL)
    fleet.until(lambda: fleet.state("s") == "BACKOFF", "it rests")
    get(holder, f"/hold?port={port}")
    with ThreadPoolExecutor() as others:
        others.submit(fleet.mcpcp, "restart", "s")
        used = f"used by pid {fleet.pid('holder')} ("
        said = fleet.until(
            lambda: [line for line in fleet.log().splitlines() if used in line], "it is told"
        )
        assert f"STARTING: waits for port {port}, still {used}" in said[0]
        get(holder, "/release")
        running(fleet, "s")


def row_error(fleet: Fleet, name: str) -> str:
    snapshot = fleet.status()
    found = snapshot and snapshot.fleet.get(name)
    return (found.error or "") if found else ""


# Reload


def test_a_changed_config_restarts_only_what_changed(fleet: Fleet) -> None:
    fleet.add("kept", PLAIN)
    fleet.add("changed", PLAIN)
    fleet.add("removed", PLAIN)
    fleet.start()
    before = running(fleet, "kept", "changed", "removed", "gateway")
    fleet.servers["changed"]["env"] = {"NEW": "1"}
    gone = fleet.servers.pop("removed")
    fleet.add("added", PLAIN)
    fleet.servers["kept"]["restart"] = {"burst": 9}
    fleet.write()
    running(fleet, "added")
    fleet.wait_other("changed", before["changed"])
    after = running(fleet, "kept", "gateway")
    assert after == {name: before[name] for name in after}
    snapshot = fleet.status()
    assert snapshot
    assert snapshot.fleet.get("removed") is None
    fleet.until(lambda: not alive(before["removed"]), "the removed one is gone")
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", gone["port"])) != 0


def test_a_bad_config_changes_nothing_and_a_good_one_ends_the_complaint(fleet: Fleet) -> None:
    fleet.add("s", PLAIN)
    fleet.start()
    before = running(fleet, "s")
    good = fleet.config.read_text()
    fleet.put(good.replace('"port"', '"prot"', 1))

    def complaint() -> str:
        snapshot = fleet.status()
        return (snapshot.config_error or "") if snapshot else ""

    assert "prot" in fleet.until(complaint, "it is told")
    fleet.put(good)
    fleet.until(lambda: not complaint(), "it is forgotten")
    assert running(fleet, "s") == before


# In the background


def in_background(fleet: Fleet) -> None:
    """Its servers are none for the gateway, which would wait for them to speak MCP."""
    fleet.write()
    done = fleet.mcpcp("up", "--background")
    assert done.returncode == 0, done.stderr


def ended(fleet: Fleet) -> bool:
    return not lock.is_held(fleet.runtime_dir)


def test_a_background_fleet_ends_when_nobody_has_been_connected_for_a_while(fleet: Fleet) -> None:
    fleet.add("s", PLAIN, type="service", args=[str(PLAIN), "--port", "{port}"])
    fleet.gateway["idle_exit"] = "1s"
    fleet.write()
    fleet.mcpcp("up", "--background")  # which may find it gone already
    fleet.until(lambda: ended(fleet), "it has ended")
    log = fleet.folder / "data" / "logs" / "supervisor.log"
    assert "nobody has been connected for" in log.read_text()


def test_a_fleet_ends_with_whoever_has_taken_it_over(fleet: Fleet) -> None:
    fleet.add("s", PLAIN, type="service", args=[str(PLAIN), "--port", "{port}"])
    in_background(fleet)
    with ControlClient.connect(fleet.runtime_dir) as client:
        assert next(client.adopt())["background"]
        with (
            ControlClient.connect(fleet.runtime_dir) as second,
            pytest.raises(FleetError, match="taken over"),
        ):
            next(second.adopt())
    fleet.until(lambda: ended(fleet), "it has ended")


def test_a_fleet_that_was_let_go_lives_on(fleet: Fleet) -> None:
    fleet.add("s", PLAIN, type="service", args=[str(PLAIN), "--port", "{port}"])
    in_background(fleet)
    with ControlClient.connect(fleet.runtime_dir) as client:
        next(client.adopt())
        client.detach()
    with ControlClient.connect(fleet.runtime_dir) as client:
        first = next(client.adopt())
        assert not first["stopping"]
        client.detach()
    assert not ended(fleet)
    assert fleet.mcpcp("down").returncode == 0
    fleet.until(lambda: ended(fleet), "it has ended")


def test_a_data_folder_that_cannot_be_written_is_told_in_one_line(fleet: Fleet) -> None:
    fleet.add("s", PLAIN)
    (fleet.folder / "data").write_text("in the way")
    launcher = fleet.start()
    assert launcher.wait(PATIENCE) == 1
    assert "Traceback" not in fleet.log()
    assert "Not a directory" in fleet.log() or "File exists" in fleet.log()


def test_a_program_that_does_not_exist_is_told(fleet: Fleet) -> None:
    fleet.add("s", command="no-such-program", args=["{port}"])
    fleet.start()
    fleet.until(lambda: "no such program" in row_error(fleet, "s"), "it is told")
    assert row_error(fleet, "s").startswith("cannot start no-such-program: ")
