"""A process that stands still has not used up the time that it gives to others when it stops."""

from __future__ import annotations

import time

import anyio
import anyio.lowlevel
import pytest
from mcp.client.client import Client
from mcp.server.mcpserver import MCPServer

from servers.plumbing.calls import Calls
from servers.plumbing.patience import settled, ticks

pytestmark = pytest.mark.anyio

SHORT = 0.2


def test_ticks_are_the_seconds_together() -> None:
    assert sum(ticks(4.0)) == pytest.approx(4.0)
    assert len(list(ticks(0.0))) == 1


async def test_a_call_in_flight_is_waited_for_although_the_process_stood_still() -> None:
    server = MCPServer("still")
    calls = Calls(server)
    server.middleware.append(calls)
    runs, stopping = anyio.Event(), anyio.Event()

    @server.tool()
    async def stand_still() -> str:
        runs.set()
        await stopping.wait()
        time.sleep(2 * SHORT)  # noqa: ASYNC251 - nothing at all happens in the process
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        return "done"

    async with Client(server) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(client.call_tool, "stand_still")
        await runs.wait()
        stopping.set()
        assert await calls.drain(SHORT)


async def test_a_call_that_does_not_end_is_not_waited_for_longer() -> None:
    server = MCPServer("endless")
    calls = Calls(server)
    server.middleware.append(calls)
    runs = anyio.Event()

    @server.tool()
    async def hold() -> None:
        runs.set()
        await anyio.sleep_forever()

    async with Client(server) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(client.call_tool, "hold")
        await runs.wait()
        assert not await calls.drain(SHORT)
        tasks.cancel_scope.cancel()


async def test_what_was_under_way_has_turns_enough_to_arrive() -> None:
    steps: list[int] = []

    async def pass_on() -> None:
        for step in range(40):
            time.sleep(0.01)  # noqa: ASYNC251 - a slow machine: more than the turns would take
            steps.append(step)
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pass_on)
        await settled()
        assert len(steps) == 40


async def test_what_is_at_work_in_a_thread_is_waited_for_within_bounds() -> None:
    asked: list[None] = []

    def busy() -> bool:
        asked.append(None)
        return len(asked) < 100

    await settled(busy)
    assert len(asked) >= 100
    await settled(lambda: True)  # it ends all the same
