"""Servers that die, hang, come late or change: what that costs, and what it does not."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import MCPError

from tests.gateway.harness import PATIENCE, WAYS, Gateway, Way

pytestmark = pytest.mark.anyio

way = pytest.mark.parametrize("way", WAYS, ids=str)
HTTP = Way("http", "auto")
CHANGED = "notifications/tools/list_changed"


async def names(client: Any) -> list[str]:
    return [tool.name for tool in (await client.list_tools()).tools]


def offered(client: Any, tool: str, expected: bool) -> Callable[[], Awaitable[bool]]:
    """For Changes.until: whether the tool is on offer, or is not, as expected."""

    async def told() -> bool:
        return (tool in await names(client)) == expected

    return told


class Changes:
    """Counts what a client was told of changed lists."""

    def __init__(self) -> None:
        self.count = 0
        self._changed = asyncio.Event()

    def add(self) -> None:
        self.count += 1
        self._changed.set()

    async def until(self, told: Callable[[], Awaitable[bool]]) -> None:
        """Wait for the one that tells of what `told` looks for, and of nothing earlier."""
        await self.next()
        while not await told():
            await self.next()

    async def next(self) -> None:
        """Wait for the next one."""
        async with asyncio.timeout(PATIENCE):
            await self._changed.wait()
        self._changed.clear()


@asynccontextmanager
async def listening(
    gateway: Gateway, way: Way, agent: str = "tester"
) -> AsyncIterator[tuple[Any, Changes]]:
    """A client that hears of changes, in the manner of its era."""
    changes = Changes()

    async def heard(message: Any) -> None:
        if not way.modern and getattr(message, "method", "") == CHANGED:
            changes.add()

    async with gateway.client(way, agent, message_handler=heard) as client:
        if not way.modern:
            await client.list_tools()
            yield client, changes
            return
        async with client.listen(tools_list_changed=True) as events:
            assert events.honored.tools_list_changed

            async def follow() -> None:
                async for _ in events:
                    changes.add()

            async with asyncio.TaskGroup() as tasks:
                follower = tasks.create_task(follow())
                yield client, changes
                follower.cancel()


@way
async def test_a_changed_list_is_told_and_seen(gateway: Gateway, way: Way) -> None:
    async with listening(gateway, way) as (client, changes):
        for expected in (True, False):
            await client.call_tool("raw_grow", {"name": f"new_{way}"})
            await changes.until(offered(client, f"raw_new_{way}", expected))
            if expected:
                answer = await client.call_tool(f"raw_new_{way}", {"message": "hi"})
                assert answer.content[0].text == "hi"


@pytest.mark.parametrize("transport", ["http", "sse"])
async def test_a_legacy_agent_hears_of_its_own_tools_only(gateway: Gateway, transport: str) -> None:
    one = Way(transport, "legacy")
    async with (
        listening(gateway, one) as (client, changes),
        listening(gateway, one, "echo_only") as (_, others),
    ):
        for _ in range(2):
            await client.call_tool("raw_grow", {"name": "unseen"})
            await changes.next()
    assert others.count == 0


@way
async def test_a_server_killed_in_mid_call_fails_that_call_at_once_and_the_session_lives_on(
    fresh: Gateway, way: Way, tmp_path: Path
) -> None:
    fresh.add_raw("raw")
    fresh.start()
    begun = tmp_path / "begun"
    async with fresh.client(way) as client, asyncio.TaskGroup() as tasks:
        first = int((await client.call_tool("raw_pid", {})).content[0].text)
        waiting = tasks.create_task(failing(client, "raw_wait", file=str(begun)))
        await fresh.until(begun.exists)
        os.kill(first, signal.SIGKILL)
        async with asyncio.timeout(PATIENCE):  # long before the server's timeout
            error = await waiting
        assert "raw went away while the call was running" in str(error)
        assert "SIGKILL" in str(error)
        second = int((await client.call_tool("raw_pid", {})).content[0].text)
        assert second != first
        assert "raw_echo" in await names(client)


async def failing(client: Any, tool: str, /, **arguments: Any) -> MCPError:
    with pytest.raises(MCPError) as caught:
        await client.call_tool(tool, arguments)
    return caught.value


async def test_nothing_is_sent_twice_unless_the_tool_says_that_it_may_be(
    fresh: Gateway, tmp_path: Path
) -> None:
    fresh.add_raw("raw")
    fresh.start()
    async with fresh.client(HTTP) as client:
        for tool, times in (("mark", 1), ("mark_idempotent", 2), ("mark_reading", 2)):
            file = tmp_path / tool
            if times == 1:
                error = await failing(client, f"raw_{tool}", file=str(file))
                assert "whether it took effect is not known" in str(error)
            else:
                answer = await client.call_tool(f"raw_{tool}", {"file": str(file)})
                assert answer.content[0].text == "done"
            assert len(file.read_text().split()) == times
    outcomes = {line["tool"]: line["outcome"] for line in fresh.audit()}
    expected = {"mark": "interrupted", "mark_idempotent": "ok", "mark_reading": "ok"}
    assert outcomes == expected


async def test_a_server_that_never_starts_costs_only_its_own_tools(fresh: Gateway) -> None:
    fresh.servers["dead"] = {"command": "python", "args": ["-c", "raise SystemExit(3)"]}
    fresh.servers["absent"] = {"command": "/nonexistent/program"}
    fresh.servers["refused"] = {"url": "http://127.0.0.1:1/mcp"}
    fresh.servers["gone"] = {"url": "http://127.0.0.1:1/sse", "type": "sse"}
    fresh.add_raw("raw")
    fresh.settings["first_list_wait"] = "1s"  # for which it waits at a url where nobody answers
    fresh.start()
    async with fresh.client(HTTP) as client:
        found = await names(client)
        assert found
        assert {name.partition("_")[0] for name in found} == {"raw"}
        assert (await client.call_tool("raw_echo", {"message": "hi"})).content[0].text == "hi"


async def test_a_frozen_server_slows_nobody_else_and_its_calls_end_at_their_deadline(
    fresh: Gateway,
) -> None:
    fresh.add_raw("frozen", timeout="1s")
    fresh.add_raw("slow")
    fresh.add_raw("raw")
    fresh.start()
    async with fresh.client(HTTP) as client, asyncio.timeout(PATIENCE):
        frozen = [fresh.server_process(name) for name in ("frozen", "slow")]
        for process in frozen:
            process.suspend()
        text = "x" * 100_000
        async with asyncio.TaskGroup() as tasks:
            late = [
                tasks.create_task(failing(client, "frozen_echo", message=text)) for _ in range(20)
            ]
            stuck = [
                tasks.create_task(client.call_tool("slow_echo", {"message": text}))
                for _ in range(20)
            ]
            for _ in range(50):
                await client.call_tool("raw_echo", {"message": "quick"})
            await asyncio.wait(late)
            assert not [task for task in stuck if task.done()]
            for process in frozen:
                process.resume()
        assert all("no answer and no progress within 1 s" in str(t.result()) for t in late)
        assert {task.result().content[0].text for task in stuck} == {text}
        assert await answered_in_the_end(client, "frozen_echo", message="awake") == "awake"


async def answered_in_the_end(client: Any, tool: str, **arguments: Any) -> str:
    """The answer of a server with a short timeout, which a busy machine may miss at first."""
    while True:
        try:
            answer = await client.call_tool(tool, arguments)
        except MCPError as error:
            assert "no answer and no progress" in str(error)
        else:
            return str(answer.content[0].text)


@pytest.mark.parametrize("way", [Way("http", "legacy"), HTTP, Way("sse", "legacy")], ids=str)
async def test_tools_of_a_server_that_stays_away_vanish_and_come_back_each_time_told(
    fresh: Gateway, way: Way, tmp_path: Path
) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    fresh.settings["first_list_wait"] = "300ms"
    fresh.add_raw("raw")
    fresh.add_raw("late", "--hold", str(hold))
    fresh.start()
    async with listening(fresh, way) as (client, changes):
        assert "late_echo" in await names(client)
        hold.unlink()
        fresh.kill_server("late")
        await changes.until(offered(client, "late_echo", False))
        hold.touch()
        await changes.until(offered(client, "late_echo", True))
        answer = await client.call_tool("late_echo", {"message": "back"})
        assert answer.content[0].text == "back"


async def test_a_quick_restart_changes_nobody_s_list(fresh: Gateway) -> None:
    fresh.add_raw("raw")
    fresh.start()
    async with listening(fresh, Way("http", "legacy")) as (client, changes):
        for _ in range(3):
            fresh.kill_server("raw")
            answer = await client.call_tool("raw_echo", {"message": "still"})
            assert answer.content[0].text == "still"
        assert changes.count == 0


async def test_a_call_during_the_restart_waits_for_it(fresh: Gateway, tmp_path: Path) -> None:
    """Each wait for what must not happen is a chance for it: it can pass too soon, never fail."""
    hold = tmp_path / "hold"
    hold.touch()
    fresh.add_raw("late", "--hold", str(hold))
    fresh.start()
    async with fresh.client(HTTP) as client, asyncio.TaskGroup() as tasks:
        hold.unlink()
        fresh.kill_server("late")
        waiting = tasks.create_task(client.call_tool("late_echo", {"message": "patience"}))
        done, _ = await asyncio.wait((waiting,), timeout=0.3)
        assert not done
        hold.touch()
    assert waiting.result().content[0].text == "patience"


async def test_a_cold_start_serves_the_last_offers_at_once(fresh: Gateway, tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    fresh.add_raw("late", "--hold", str(hold))
    fresh.agents["limited"] = {"allow": {"late": ["echo"]}}
    fresh.start()
    async with fresh.client(HTTP) as client:
        before = await names(client)
    assert fresh.stop() == 0
    hold.unlink()
    fresh.start(ready=False)
    assert fresh.get("/ready")[0] == 503
    async with fresh.client(HTTP) as client, asyncio.TaskGroup() as tasks:
        async with asyncio.timeout(PATIENCE):
            assert await names(client) == before, "from disk, without waiting for the server"
        async with fresh.client(HTTP, "limited") as limited:
            assert await names(limited) == ["late_echo"]
        waiting = tasks.create_task(client.call_tool("late_echo", {"message": "now"}))
        done, _ = await asyncio.wait((waiting,), timeout=0.2)
        assert not done
        hold.touch()
    assert waiting.result().content[0].text == "now"


async def test_an_offer_of_another_program_is_not_believed(fresh: Gateway) -> None:
    fresh.add_raw("raw")
    fresh.start()
    assert fresh.stop() == 0
    fresh.settings["first_list_wait"] = "200ms"
    fresh.servers["raw"] = {"command": "python", "args": ["-c", "input()"]}
    fresh.start(ready=False)
    async with fresh.client(HTTP) as client:
        assert await names(client) == []


async def test_a_first_list_waits_for_a_server_that_was_never_seen(
    fresh: Gateway, tmp_path: Path
) -> None:
    hold = tmp_path / "hold"
    fresh.add_raw("raw")
    fresh.add_raw("late", "--hold", str(hold))
    fresh.agents["raw_only"] = {"allow": {"raw": ["*"]}}
    fresh.start(ready=False)
    async with fresh.client(HTTP) as client, asyncio.TaskGroup() as tasks:
        first = tasks.create_task(names(client))
        called = tasks.create_task(client.call_tool("late_echo", {"message": "unseen"}))
        done, _ = await asyncio.wait((first, called), timeout=0.5)
        assert not done
        async with fresh.client(HTTP, "raw_only") as other, asyncio.timeout(PATIENCE):
            assert "raw_echo" in await names(other), "who may not use it does not wait for it"
        assert not first.done()
        hold.touch()
    assert {"late_echo", "raw_echo"} <= set(first.result())
    assert called.result().content[0].text == "unseen"


async def test_a_first_list_does_not_wait_for_ever(fresh: Gateway, tmp_path: Path) -> None:
    fresh.settings["first_list_wait"] = "300ms"
    fresh.add_raw("raw")
    fresh.add_raw("never", "--hold", str(tmp_path / "never"))
    fresh.start(ready=False)
    async with fresh.client(HTTP) as client, asyncio.timeout(PATIENCE):
        found: list[str] = []
        while "raw_echo" not in found:  # of which the first may know nothing yet
            found = await names(client)
        assert "never_echo" not in found


async def test_the_log_tells_why_a_server_is_away(fresh: Gateway) -> None:
    program = "import sys; sys.stderr.write('no licence\\n'); sys.exit(4)"
    fresh.servers["dead"] = {"command": sys.executable, "args": ["-c", program]}
    fresh.start()
    await fresh.until(lambda: "dead | no licence" in fresh.text())
