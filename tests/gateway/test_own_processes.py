"""`sessions: per_client`: a process a client, only so many, and none for a client that is idle."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.gateway.harness import PATIENCE, RAW, Gateway, call, records, request
from tests.gateway.test_faults import RUDE
from tests.gateway.test_sessions import ask, begin
from tests.processes import command

pytestmark = pytest.mark.anyio


def processes(gateway: Gateway, program: Path = RAW) -> list[psutil.Process]:
    """Those of the server: the one that lists come from, and one for each client."""
    children = psutil.Process(gateway.pid).children()
    return [p for p in children if str(program) in command(p)]


async def echo(http: Any, session: dict[str, str], message: str, server: str = "raw") -> None:
    params = call(f"{server}_echo", message=message)
    answer = await ask(http, session, "tools/call", params)
    assert answer["content"][0]["text"] == message


async def test_the_process_of_an_idle_client_rests_and_comes_back_as_it_was(
    fresh: Gateway, tmp_path: Path
) -> None:
    file = tmp_path / "journal"
    fresh.servers["rude"] = {
        "command": "python",
        "args": [str(RUDE), "--journal", str(file)],
        "sessions": "per_client",
        "session_idle": "0.3s",
    }
    fresh.start()
    hello = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "sleepy", "version": "7"},
    }

    def told(process: int) -> list[str]:
        return [line["method"] for line in records(file) if line["pid"] == process]

    async with fresh.http() as http, asyncio.timeout(PATIENCE):
        session = await begin(http, hello)
        await echo(http, session, "first", "rude")
        await ask(http, session, "logging/setLevel", {"level": "warning"})
        mine = {line["pid"] for line in records(file) if "sleepy" in str(line)}
        await fresh.until(lambda: not any(map(psutil.pid_exists, mine)), "it was not ended")
        assert len(processes(fresh, RUDE)) == 1, "and is not started again unasked"
        await echo(http, session, "second", "rude")
    (second,) = {line["pid"] for line in records(file) if "sleepy" in str(line)} - mine
    assert told(second)[:4] == [
        "initialize",
        "notifications/initialized",
        "logging/setLevel",
        "tools/call",
    ]


async def test_a_process_through_which_a_client_follows_a_resource_is_not_idle(
    fresh: Gateway, tmp_path: Path
) -> None:
    arguments = [str(RUDE), "--name", "rude"]
    entry = {"command": "python", "args": arguments, "sessions": "per_client"}
    fresh.servers["rude"] = {**entry, "session_idle": "0.2s"}
    fresh.start()
    async with fresh.http() as http, asyncio.timeout(PATIENCE):
        watching, other = await begin(http), await begin(http)
        await ask(http, watching, "resources/subscribe", {"uri": "rude://rude"})
        (own,) = {p.pid for p in processes(fresh, RUDE)} - {eldest(fresh)}
        await echo(http, other, "mine goes", "rude")
        await fresh.until(lambda: len(processes(fresh, RUDE)) == 2, "no process was ended")
        assert psutil.pid_exists(own)
        await ask(http, watching, "resources/unsubscribe", {"uri": "rude://rude"})
        await fresh.until(lambda: not psutil.pid_exists(own), "it is idle now")


def eldest(gateway: Gateway) -> int:
    """The process that lists come from."""
    return min(processes(gateway, RUDE), key=lambda p: p.create_time()).pid


async def test_for_one_more_client_the_process_that_is_idle_longest_is_ended(
    fresh: Gateway,
) -> None:
    fresh.add_raw("raw", sessions="per_client", max_sessions=2)
    fresh.start()
    async with fresh.http() as http, asyncio.timeout(PATIENCE):
        clients = [await begin(http) for _ in range(3)]
        pids = []
        for client in clients:
            answer = await ask(http, client, "tools/call", call("raw_pid"))
            pids.append(int(answer["content"][0]["text"]))
        assert not psutil.pid_exists(pids[0])
        assert psutil.pid_exists(pids[1])
        await echo(http, clients[0], "again")
        assert not psutil.pid_exists(pids[1])
        assert psutil.pid_exists(pids[2])
        assert len(processes(fresh)) == 1 + 2


async def test_while_all_are_busy_one_more_client_is_told_so_and_nobody_loses_a_call(
    fresh: Gateway, tmp_path: Path
) -> None:
    fresh.add_raw("raw", sessions="per_client", max_sessions=1, timeout="10s")
    fresh.start()
    until = tmp_path / "until"
    wait = call("raw_wait", file=str(tmp_path / "begun"), until=str(until), beats=True)
    wait["_meta"] = {"progressToken": "p"}
    async with fresh.http() as http, asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        busy, other = await begin(http), await begin(http)
        waiting = tasks.create_task(ask(http, busy, "tools/call", wait))
        await fresh.until((tmp_path / "begun").exists)
        body = request("tools/call", call("raw_echo", message="no room"), 2)
        posted = await http.post("/mcp", json=body, headers=other)
        refused = json.loads(posted.text.split("data: ")[-1])["error"]
        assert "all 1 processes that its clients may have are busy" in refused["message"]
        assert "max_sessions" in refused["message"]
        assert refused["data"] == {"delivered": False}
        assert not waiting.done()
        until.touch()
        assert (await waiting)["content"][0]["text"] == "released"
        await echo(http, other, "now there is")


async def test_many_clients_share_few_processes_and_every_call_is_answered(
    fresh: Gateway,
) -> None:
    """Processes come and go all the time: a call must not meet one that is on its way out."""
    fresh.add_raw("raw", sessions="per_client", max_sessions=3)
    fresh.start()
    most = 0

    async def use(http: Any, number: int) -> None:
        nonlocal most
        session = await begin(http)
        for turn in range(3):
            await echo(http, session, f"{number}-{turn}")
            most = max(most, len(processes(fresh)))

    async with fresh.http() as http, asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        for number in range(8):
            tasks.create_task(use(http, number))
    assert most <= 1 + 3
