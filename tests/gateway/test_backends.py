"""Real servers of the SDK behind the gateway: over stdio, SSE and streamable HTTP."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.fleet import UNRULY
from tests.gateway.harness import BATTLE, FOREVER, PATIENCE, TIME, Gateway, Way, open_gateway
from tests.gateway.test_servers_away import answered_in_the_end, failing, listening, names, offered
from tests.ports import reserve
from tests.servers.harness import Script, running

pytestmark = pytest.mark.anyio

HTTP = Way("http", "auto")
ECHO = ("raw", "battle", "http_battle", "remote")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Gateway]:
    """The same scripts by every transport; two servers run on ports, as a supervisor's would."""
    folder = tmp_path_factory.mktemp("backends")
    nowhere = {"BACKEND_URL": "http://127.0.0.1:1", "BATTLE_LOG_DIR": str(folder / "battles")}
    with ExitStack() as stack:
        battle = stack.enter_context(running(BATTLE, env=nowhere))
        made = stack.enter_context(open_gateway(folder, keys))
        made.add_raw("raw")
        entry = {"command": "python", "args": [str(BATTLE)]}
        made.servers |= {
            "battle": {**entry, "type": "sse", "port": battle.port},
            "time": {"command": "python", "args": [str(TIME)]},
            "remote": {"url": f"{battle.url}/mcp"},
            "http_battle": {"url": f"{battle.url}/sse"},
        }
        made.start()
        yield made


async def test_all_transports_offer_the_same_tools(gateway: Gateway) -> None:
    async with gateway.client(HTTP) as client:
        found = await names(client)
    tools = {"echo", "update_battle_process", "report_on_battle_end"}
    for server in ("battle", "remote", "http_battle"):
        assert {f"{server}_{tool}" for tool in tools} <= set(found)
    assert {"time_get_current_time", "time_convert_time"} <= set(found)


@pytest.mark.parametrize("one", [HTTP, Way("http", "legacy"), Way("sse", "legacy")], ids=str)
async def test_typed_results_pass_the_sdk_s_own_validation(gateway: Gateway, one: Way) -> None:
    async with gateway.client(one) as client:
        answer = await client.call_tool("time_get_current_time", {"timezone": "Asia/Tokyo"})
        assert answer.structured_content["timezone"] == "Asia/Tokyo"
        failed = await client.call_tool("time_get_current_time", {"timezone": "Mars/Base"})
        assert failed.is_error
        assert "unknown timezone" in failed.content[0].text
        for server in ("battle", "remote"):
            report = {"battle_id": "b", "message": "m", "reported_by": "tests"}
            sent = await client.call_tool(f"{server}_update_battle_process", report)
            assert sent.structured_content["status"] == "queued"


async def test_many_calls_at_once_each_get_their_own_answer(gateway: Gateway) -> None:
    async def caller(client: Any, number: int) -> None:
        for turn in range(10):
            server = ECHO[(number + turn) % len(ECHO)]
            text = f"{number}/{turn} " + "ä" * (number * 37)
            answer = await client.call_tool(f"{server}_echo", {"message": text})
            assert answer.content[0].text == text

    async with (
        gateway.client(HTTP) as one,
        gateway.client(Way("sse", "legacy")) as other,
        asyncio.TaskGroup() as tasks,
    ):
        for number in range(32):
            tasks.create_task(caller(one if number % 2 else other, number))


class Fighter:
    """The battle script on a port of its own that can be killed and started again there."""

    def __init__(self, port: int, folder: Path) -> None:
        self.port = port
        self._env = {"BACKEND_URL": "http://127.0.0.1:1", "BATTLE_LOG_DIR": str(folder / "log")}

    def run(self) -> Any:
        return running(BATTLE, "--port", str(self.port), env=self._env)


@pytest.mark.parametrize("transport", ["sse", "http"])
async def test_a_killed_http_server_is_found_again_and_the_session_lives_on(
    fresh: Gateway, tmp_path: Path, transport: str
) -> None:
    fresh.settings["first_list_wait"] = "500ms"
    with reserve() as port:
        fighter = Fighter(port, tmp_path)
        path = "/sse" if transport == "sse" else "/mcp"
        url = f"http://127.0.0.1:{port}{path}"
        fresh.servers["battle"] = {"url": url, "type": transport, "timeout": FOREVER}
        fresh.add_raw("raw")
        script: Script
        with fighter.run() as script:
            fresh.start()
            await exercise(fresh, fighter, script)


async def exercise(fresh: Gateway, fighter: Fighter, script: Script) -> None:
    async with listening(fresh, Way("http", "legacy")) as (client, changes):
        assert "battle_echo" in await names(client)
        await asyncio.to_thread(script.kill)
        await changes.until(offered(client, "battle_echo", False))
        error = await failing(client, "battle_echo", message="?")
        assert "Unknown tool" in str(error)
        answer = await client.call_tool("raw_echo", {"message": "still here"})
        assert answer.content[0].text == "still here"
        with fighter.run():
            await changes.until(offered(client, "battle_echo", True))
            answer = await client.call_tool("battle_echo", {"message": "back"})
            assert answer.content[0].text == "back"


@pytest.mark.parametrize("transport", ["sse", "http"])
async def test_a_call_on_an_http_server_that_is_killed_fails_at_once(
    fresh: Gateway, tmp_path: Path, transport: str
) -> None:
    begun = tmp_path / "begun"
    with running(UNRULY) as script:
        path = "/sse" if transport == "sse" else "/mcp"
        fresh.servers["doomed"] = {
            "url": f"{script.url}{path}",
            "type": transport,
            "timeout": FOREVER,
        }
        fresh.start()
        async with fresh.client(HTTP) as client, asyncio.TaskGroup() as tasks:
            arguments = {"seconds": 600, "note": str(begun)}
            waiting = tasks.create_task(failing(client, "doomed_nap", **arguments))
            await fresh.until(begun.exists)
            await asyncio.to_thread(script.kill)
            async with asyncio.timeout(PATIENCE):
                error = await waiting
    assert "doomed" in str(error) or "the server" in str(error)
    assert error.error.data == {"delivered": True}
    assert fresh.audit()[-1]["outcome"] == "interrupted"


@pytest.mark.parametrize("transport", ["sse", "http"])
async def test_a_frozen_http_server_costs_its_own_calls_their_timeout_and_no_more(
    fresh: Gateway, transport: str
) -> None:
    with running(UNRULY) as script:
        path = "/sse" if transport == "sse" else "/mcp"
        entry = {"url": f"{script.url}{path}", "type": transport}
        fresh.servers["frozen"] = {**entry, "timeout": "1s"}
        fresh.servers["slow"] = {**entry, "timeout": FOREVER}
        fresh.add_raw("raw")
        fresh.start()
        async with fresh.client(HTTP) as client:
            script.process.send_signal(signal.SIGSTOP)
            async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
                stuck = tasks.create_task(client.call_tool("slow_echo", {"message": "at last"}))
                late = tasks.create_task(failing(client, "frozen_echo", message="?"))
                answer = await client.call_tool("raw_echo", {"message": "quick"})
                assert answer.content[0].text == "quick"
                assert "within 1 s" in str(await late)
                assert not stuck.done()
                script.process.send_signal(signal.SIGCONT)
            assert stuck.result().content[0].text == "at last"
            assert await answered_in_the_end(client, "frozen_echo", message="awake") == "awake"
