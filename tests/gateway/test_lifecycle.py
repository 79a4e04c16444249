"""The gateway's own beginning, changes and end."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import processes
from tests.gateway.harness import PATIENCE, Gateway, Way, call, modern, modern_headers
from tests.gateway.test_servers_away import failing, listening, names

pytestmark = pytest.mark.anyio

HTTP = Way("http", "auto")
LEGACY = Way("http", "legacy")


def test_a_port_in_use_is_one_clear_line(fresh: Gateway) -> None:
    fresh.add_raw("raw")
    fresh.write()
    with socket.create_server(("127.0.0.1", fresh.port)):
        result = subprocess.run(
            [sys.executable, "-m", "mcpcp", "serve", "--config", str(fresh.config)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env=fresh.environ,
        )
    assert result.returncode == 1
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert f"127.0.0.1:{fresh.port}" in lines[0]
    assert "gateway.port" in lines[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_running_call_is_answered_before_the_end(
    fresh: Gateway, tmp_path: Path, number: int
) -> None:
    fresh.add_raw("raw")
    fresh.start()
    ways = [HTTP, LEGACY, Way("sse", "legacy"), Way("sse", "auto")]

    release = tmp_path / "release"

    async def last_call(one: Way) -> str:
        arguments = {"file": str(tmp_path / str(one)), "until": str(release)}
        async with fresh.client(one) as client:
            await client.list_tools()  # else the SDK lists once the answer is there
            return str((await client.call_tool("raw_wait", arguments)).content[0].text)

    assert fresh.process is not None
    async with asyncio.TaskGroup() as tasks:
        calls = [tasks.create_task(last_call(one)) for one in ways]
        for one in ways:
            await fresh.until((tmp_path / str(one)).exists)
        fresh.process.send_signal(number)
        await fresh.until(lambda: fresh.get("/health")[0] == 0, "it takes new connections still")
        assert fresh.running
        release.touch()
    assert [task.result() for task in calls] == ["released"] * len(ways)
    assert fresh.process.wait(PATIENCE) == 0


async def test_a_call_that_does_not_end_is_cut_off_at_the_deadline(
    fresh: Gateway, tmp_path: Path
) -> None:
    fresh.settings["drain"] = "1s"
    fresh.add_raw("raw")
    fresh.start()
    begun = tmp_path / "begun"
    body = modern("tools/call", call("raw_wait", file=str(begun)))
    async with fresh.http() as http:
        post = asyncio.ensure_future(http.post("/mcp", json=body, headers=modern_headers(body)))
        await fresh.until(begun.exists)
        stopping = time.monotonic()
        code = await asyncio.to_thread(fresh.stop)
        await asyncio.gather(post, return_exceptions=True)
    assert code == 0
    assert time.monotonic() - stopping > 0.9


async def test_idle_clients_do_not_hold_the_end_up(fresh: Gateway) -> None:
    fresh.add_raw("raw")
    fresh.start()
    async with fresh.http() as http:
        stream = http.stream("GET", "/sse")
        async with stream as answer:
            lines = answer.aiter_lines()
            await anext(lines)
            assert await asyncio.to_thread(fresh.stop) == 0, "it waits for `drain` to pass"
            async with asyncio.timeout(PATIENCE):
                async for _ in lines:
                    pass


async def test_a_subscription_ends_gracefully(fresh: Gateway) -> None:
    fresh.add_raw("raw")
    fresh.start()
    async with fresh.client(HTTP) as client, client.listen(tools_list_changed=True) as events:
        assert await asyncio.to_thread(fresh.stop) == 0
        async with asyncio.timeout(PATIENCE):
            assert [event async for event in events] == []


def test_stdio_servers_end_with_a_killed_gateway(fresh: Gateway) -> None:
    fresh.add_raw("raw")
    fresh.start()
    server = fresh.server_process("raw")
    assert fresh.stop(signal.SIGKILL) == -signal.SIGKILL
    assert psutil.wait_procs([server], PATIENCE)[0]


def test_servers_end_with_the_gateway_even_those_that_ignore_it(fresh: Gateway) -> None:
    stubborn = Path(__file__).parents[1] / "programs" / "stubborn.py"
    fresh.settings["first_list_wait"] = "100ms"
    fresh.servers["deaf"] = {
        "command": "python",
        "args": [str(stubborn), "deaf", "eternal", "breed"],
    }
    fresh.start(ready=False)
    server, *bred = fresh.wait(lambda: two_or_more(processes.below(fresh.pid)))
    assert fresh.stop() == 0
    assert not psutil.wait_procs([server, *bred], PATIENCE)[1]


def two_or_more(found: list[psutil.Process]) -> list[psutil.Process]:
    return found if len(found) > 1 else []


# The config changes while it runs


async def offers(client: Any, tool: str) -> None:
    """Return once `tool` is listed."""
    async with asyncio.timeout(PATIENCE):
        while tool not in await names(client):  # noqa: ASYNC110  (what a client without streams does)
            await asyncio.sleep(0.05)


async def test_servers_and_agents_come_and_go_under_load(fresh: Gateway) -> None:
    fresh.add_raw("raw")
    fresh.add_raw("leaving")
    fresh.start()
    stop = asyncio.Event()
    answered = 0

    async def load(one: Way) -> None:
        nonlocal answered
        async with fresh.client(one) as client:
            while not stop.is_set():
                text = f"{one} {answered}"
                answer = await client.call_tool("raw_echo", {"message": text})
                assert answer.content[0].text == text
                answered += 1

    async with listening(fresh, LEGACY) as (client, changes), asyncio.TaskGroup() as tasks:
        for one in (HTTP, LEGACY, Way("sse", "legacy")):
            tasks.create_task(load(one))
        raw = fresh.server_process("raw").pid
        leaving = fresh.server_process("leaving")
        del fresh.servers["leaving"]
        fresh.add_raw("coming")
        fresh.agents["newcomer"] = {"allow": {"coming": ["echo"]}}
        fresh.write()
        async with asyncio.timeout(PATIENCE):
            while "coming_echo" not in (found := await names(client)):
                await changes.next()
        assert not [name for name in found if name.startswith("leaving")]
        assert "Unknown tool" in str(await failing(client, "leaving_echo", message="?"))
        async with fresh.client(HTTP, "newcomer") as newcomer:
            assert await names(newcomer) == ["coming_echo"]
        so_far = answered
        await fresh.until(lambda: answered > so_far + 20)
        stop.set()
        assert fresh.server_process("raw").pid == raw, "what did not change was not restarted"
    assert not psutil.wait_procs([leaving], PATIENCE)[1]


async def test_a_changed_entry_restarts_its_server_alone(fresh: Gateway) -> None:
    fresh.add_raw("raw")
    fresh.add_raw("other")
    fresh.start()
    before = {name: fresh.server_process(name).pid for name in fresh.servers}
    fresh.add_raw("raw", "--tool", "fresh_tool")
    fresh.write()
    async with fresh.client(HTTP) as client:
        await offers(client, "raw_fresh_tool")
    assert fresh.server_process("other").pid == before["other"]
    assert fresh.server_process("raw").pid != before["raw"]


async def test_a_changed_rule_needs_no_restart_of_clients(fresh: Gateway) -> None:
    fresh.add_raw("raw")
    fresh.start()
    async with listening(fresh, LEGACY) as (client, changes):
        rules = {"deny": ["e*"], "rename": {"pid": "who"}, "describe": {"pid": "Who it is."}}
        fresh.add_raw("raw", tools=rules, prefix="r")
        fresh.write()
        async with asyncio.timeout(PATIENCE):
            while "r_who" not in (found := await names(client)):
                await changes.next()
        assert not {"raw_echo", "r_echo", "r_env", "r_pid"} & set(found)
        tools = {tool.name: tool.description for tool in (await client.list_tools()).tools}
        assert tools["r_who"] == "Who it is."


async def test_a_config_with_errors_changes_nothing_and_says_why(fresh: Gateway) -> None:
    fresh.add_raw("raw")
    fresh.start()
    async with fresh.client(LEGACY) as client:
        before = fresh.server_process("raw").pid
        wrong = fresh.folder / "wrong.json"
        wrong.write_text('{"mcpServers": {"raw": {"comand": "x"}}}')
        wrong.replace(fresh.config)  # whole: half of it would be another error
        await fresh.until(lambda: 'did you mean "command"' in fresh.text())
        assert "stays as it was" in fresh.text()
        answer = await client.call_tool("raw_echo", {"message": "still"})
        assert answer.content[0].text == "still"
        assert fresh.server_process("raw").pid == before
        fresh.add_raw("more")
        fresh.write()
        await offers(client, "more_echo")


async def test_a_collision_is_logged_and_the_first_server_keeps_the_name(fresh: Gateway) -> None:
    fresh.add_raw("one", prefix="same")
    fresh.add_raw("two", "--tool", "own", prefix="same")
    fresh.start()
    async with fresh.client(HTTP) as client:
        found: list[Any] = (await client.list_tools()).tools
    told = {tool.name: tool.description for tool in found}
    assert told["same_echo"] == "echo of one"
    assert told["same_own"] == "own of two"
    assert "two:echo is not offered" in fresh.text()
