"""Background fleets: one a config whoever starts it, outliving its starter, ending when idle."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mcpcp.control import CONTROL_SOCKET, GATEWAY_SOCKET
from tests.fleet import PATIENCE, Fleet
from tests.processes import command

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}


class StdioClient:
    """`mcpcp stdio` as an MCP client runs it: pipes, and a session and group of its own."""

    def __init__(self, fleet: Fleet) -> None:
        fleet.write()
        words = [sys.executable, "-m", "mcpcp", "stdio", "--agent", "tester"]
        self.process = subprocess.Popen(
            [*words, "--config", str(fleet.config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=fleet.environ,
            cwd=fleet.folder,
            start_new_session=True,
        )
        fleet.launched.append(self.process)

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()
        while line := self.process.stdout.readline():
            answer: dict[str, Any] = json.loads(line)
            if answer.get("id") == message["id"]:
                return answer
        assert self.process.stderr
        raise AssertionError(self.process.stderr.read().decode())

    def introduce(self) -> str:
        """Be initialized; the server's name."""
        answer = self.ask(INITIALIZE)
        return str(answer["result"]["serverInfo"]["name"])

    def close(self) -> None:
        """Hang up, as a client does."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(PATIENCE)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream
            stream.close()


@pytest.fixture
def client(fleet: Fleet) -> Iterator[Callable[[], StdioClient]]:
    """Starts stdio clients, which have ended at the end."""
    with contextlib.ExitStack() as stack:

        def start() -> StdioClient:
            return stack.enter_context(contextlib.closing(StdioClient(fleet)))

        yield start


def guards(fleet: Fleet) -> list[int]:
    """The processes that guard a fleet of this config."""
    return [p.pid for p in fleet.processes() if "mcpcp.supervisor.background" in command(p)]


def test_up_in_the_background_gives_the_prompt_back_and_down_stops_all(fleet: Fleet) -> None:
    fleet.add("mcp1")
    fleet.write()
    first = fleet.mcpcp("up", "--background")
    assert first.returncode == 0, first.stderr
    assert fleet.call("mcp1_echo", message="hi") == "hi"
    again = fleet.mcpcp("up", "--background")
    assert again.stdout == first.stdout
    down = fleet.mcpcp("down")
    assert down.returncode == 0, down.stderr
    fleet.assert_nothing_left()
    assert "nothing runs" in fleet.mcpcp("down").stdout


def test_clients_that_start_at_once_share_one_fleet(
    fleet: Fleet, client: Callable[[], StdioClient]
) -> None:
    fleet.add("mcp1")
    clients = [client() for _ in range(5)]
    for one in clients:
        assert one.introduce() == "mcpcp"
    assert len(guards(fleet)) == 1
    assert fleet.mcpcp("down").returncode == 0


def test_a_client_killed_with_its_whole_group_leaves_the_fleet_to_the_others(
    fleet: Fleet, client: Callable[[], StdioClient]
) -> None:
    fleet.add("mcp1")
    starter = client()
    starter.introduce()
    before = fleet.until(lambda: fleet.pid("mcp1"), "mcp1 runs")
    os.killpg(starter.process.pid, signal.SIGKILL)
    starter.process.wait()
    other = client()
    other.introduce()
    assert fleet.pid("mcp1") == before
    assert fleet.call("mcp1_echo", message="hi") == "hi"
    assert fleet.mcpcp("down").returncode == 0


def test_a_client_killed_while_it_starts_the_fleet_does_not_stop_the_start(
    fleet: Fleet, client: Callable[[], StdioClient]
) -> None:
    fleet.add("mcp1")
    starter = client()
    fleet.until(lambda: guards(fleet), "the fleet is starting")
    os.killpg(starter.process.pid, signal.SIGKILL)
    starter.process.wait()
    assert client().introduce() == "mcpcp"
    # What begins as the guard's parent may be on its way out still.
    fleet.until(lambda: len(guards(fleet)) == 1, "there is one guard")
    assert fleet.mcpcp("down").returncode == 0


def test_a_fleet_that_nobody_uses_ends_by_itself(
    fleet: Fleet, client: Callable[[], StdioClient]
) -> None:
    fleet.gateway["idle_exit"] = "5s"
    fleet.add("mcp1")
    one = client()
    one.introduce()
    one.close()
    fleet.until(lambda: not fleet.processes(), "the fleet has ended")


def test_a_fleet_that_somebody_uses_stays(fleet: Fleet, client: Callable[[], StdioClient]) -> None:
    fleet.gateway["idle_exit"] = "5s"
    fleet.add("mcp1")
    staying, leaving = client(), client()
    staying.introduce()
    leaving.introduce()
    pid = fleet.until(lambda: fleet.pid("mcp1"), "mcp1 runs")
    leaving.close()
    until, number = time.monotonic() + 6, 2
    while time.monotonic() < until:
        assert staying.ask({"jsonrpc": "2.0", "id": number, "method": "ping"})["result"] == {}
        assert fleet.pid("mcp1") == pid
        number += 1
    staying.close()
    fleet.until(lambda: not fleet.processes(), "the fleet has ended")


def end_when_seen(runtime: Path) -> None:
    """Listen as a fleet does, and be gone as soon as somebody has seen that it is there."""
    paths = [runtime / GATEWAY_SOCKET, runtime / CONTROL_SOCKET]
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in paths]
        for path, listener in zip(paths, listeners, strict=True):
            listener.bind(str(path))
            listener.listen()
        seen = [listener.accept()[0] for listener in listeners]
        for path, connection in zip(paths, seen, strict=True):
            connection.close()
            path.unlink()


def test_a_client_that_comes_while_a_fleet_ends_gets_another_one(
    fleet: Fleet, client: Callable[[], StdioClient]
) -> None:
    fleet.add("mcp1")
    fleet.write()
    ending = threading.Thread(target=end_when_seen, args=(fleet.runtime_dir,))
    ending.start()
    fleet.until((fleet.runtime_dir / CONTROL_SOCKET).exists, "it seems to run")
    assert client().introduce() == "mcpcp"
    ending.join(PATIENCE)
    assert fleet.mcpcp("down").returncode == 0


def test_a_config_that_is_wrong_is_told_to_the_client(fleet: Fleet) -> None:
    fleet.servers["mcp1"] = {"command": "python", "prot": 1}
    fleet.write()
    done = fleet.mcpcp("stdio", "--agent", "tester", stdin=subprocess.DEVNULL)
    assert done.returncode != 0
    assert "prot" in done.stderr
    assert "port" in done.stderr
    fleet.servers.clear()


def test_a_gateway_port_that_is_taken_is_told_to_the_client_soon(
    fleet: Fleet, stranger: Callable[[int], socket.socket]
) -> None:
    fleet.add("mcp1")
    fleet.write()
    foreign = stranger(int(fleet.gateway["port"]))
    done = fleet.mcpcp("stdio", "--agent", "tester", stdin=subprocess.DEVNULL)
    assert done.returncode != 0
    assert f"pid {os.getpid()}" in done.stderr
    fleet.mcpcp("down")
    foreign.close()


def test_the_launcher_takes_a_background_fleet_over_and_ctrl_c_stops_it(fleet: Fleet) -> None:
    fleet.add("mcp1")
    fleet.write()
    assert fleet.mcpcp("up", "--background").returncode == 0
    before = fleet.pid("mcp1")
    launcher = fleet.start("--plain")
    fleet.until(lambda: "mcp1 RUNNING" in fleet.log(), "it is shown")
    assert fleet.pid("mcp1") == before
    assert fleet.stop(launcher) == 0
    fleet.assert_nothing_left()


def test_a_taken_over_fleet_ends_with_its_new_owner_however_that_ends(fleet: Fleet) -> None:
    fleet.add("mcp1")
    fleet.write()
    assert fleet.mcpcp("up", "--background").returncode == 0
    launcher = fleet.start("--plain")
    fleet.until(lambda: "mcp1 RUNNING" in fleet.log(), "it is shown")
    launcher.kill()
    launcher.wait()
    fleet.assert_nothing_left()
