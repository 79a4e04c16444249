"""Turns at one server: how many at once, in which order, and who stops waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mcpcp.errors import DeadlineExceeded
from mcpcp.turns import Turns

pytestmark = pytest.mark.anyio


class Server:
    """Counts the calls at it, each of which ends when it is told to."""

    def __init__(self, most: int | None) -> None:
        self.turns = Turns("mcp1")
        self.most = most
        self.served: list[int] = []
        self.busy = self.peak = 0
        self.ends: dict[int, asyncio.Event] = {}

    async def call(self, n: int, timeout: float = 600) -> None:
        self.ends[n] = asyncio.Event()
        async with self.turns.take(self.most, timeout):
            self.served.append(n)
            self.busy += 1
            self.peak = max(self.peak, self.busy)
            try:
                await self.ends[n].wait()
            finally:
                self.busy -= 1

    @asynccontextmanager
    async def calls(self, count: int) -> AsyncIterator[list[asyncio.Task[None]]]:
        """So many calls, begun in order."""
        async with asyncio.timeout(90), asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.call(n)) for n in range(count)]
            await settle()
            yield tasks
            for end in self.ends.values():
                end.set()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_calls_wait_in_order_while_the_server_is_busy() -> None:
    server = Server(2)
    async with server.calls(5):
        assert server.served == [0, 1]
        assert server.turns.waiting == 3
        server.ends[1].set()
        await settle()
        assert server.served == [0, 1, 2]
    assert server.served == [0, 1, 2, 3, 4]
    assert (server.peak, server.turns.waiting, server.turns._busy) == (2, 0, 0)


async def test_without_a_bound_nobody_waits() -> None:
    server = Server(None)
    async with server.calls(50):
        assert server.busy == 50


async def test_waiting_ends_at_the_deadline_with_a_clear_error_and_nothing_was_sent() -> None:
    server = Server(1)
    async with server.calls(1):
        with pytest.raises(DeadlineExceeded, match=r"mcp1 is busy: its 1 calls? at once .*concurr"):
            await server.call(7, timeout=0.05)
        assert server.served == [0]
    async with server.calls(1):
        assert server.served == [0, 0]


async def test_a_newcomer_does_not_overtake_those_who_wait() -> None:
    server = Server(1)
    async with server.calls(2) as tasks, asyncio.TaskGroup() as group:
        server.ends[0].set()
        await tasks[0]
        group.create_task(server.call(9))
        await settle()
        assert server.served == [0, 1]
        server.ends[1].set()
        await settle()
        assert server.served == [0, 1, 9]
        server.ends[9].set()


@pytest.mark.parametrize("cancelled", [0, 1, 2])
async def test_a_cancelled_call_or_waiter_gives_its_turn_to_the_next(cancelled: int) -> None:
    server = Server(1)
    async with server.calls(4) as tasks:
        tasks[cancelled].cancel()
        await settle()
        for n in range(4):
            if n != cancelled:
                server.ends[n].set()
                await tasks[n]
    assert server.served == [n for n in range(4) if n != cancelled or n == 0]
    assert (server.turns._busy, server.turns.waiting) == (0, 0)


async def test_who_is_cancelled_just_when_its_turn_comes_passes_it_on() -> None:
    server = Server(1)
    async with server.calls(3) as tasks:
        server.ends[0].set()
        await asyncio.sleep(0)  # the turn is task 1's now, which has not run since
        assert server.turns._busy == 1
        assert server.served == [0]
        tasks[1].cancel()
        await settle()
        assert server.served == [0, 2]
    assert server.turns._busy == 0


async def test_a_higher_bound_lets_more_in_and_a_lower_one_fewer() -> None:
    server = Server(1)
    async with server.calls(3), asyncio.TaskGroup() as group:
        server.most = 3
        more = group.create_task(server.call(3))
        await settle()
        assert server.served == [0, 1, 2]
        server.most = 1
        fewer = group.create_task(server.call(4))
        await settle()
        for n in (0, 1):
            server.ends[n].set()
        await settle()
        assert server.busy == 1
        server.ends[2].set()
        await settle()
        assert server.served == [0, 1, 2, 3]
        server.ends[3].set()
        await more
        server.ends[4].set()
        await fewer


async def test_many_calls_that_come_go_and_give_up_leave_nothing_behind() -> None:
    server = Server(3)

    async def one(n: int) -> None:
        try:
            async with server.turns.take(3, 0.001 if n % 3 else 600):
                server.busy += 1
                server.peak = max(server.peak, server.busy)
                try:
                    await asyncio.sleep(0)
                finally:
                    server.busy -= 1
        except DeadlineExceeded:
            pass

    async with asyncio.timeout(90), asyncio.TaskGroup() as group:
        for n in range(600):
            task = group.create_task(one(n))
            if n % 7 == 0:
                asyncio.get_running_loop().call_soon(task.cancel)
    assert server.peak <= 3
    assert (server.turns._busy, server.turns.waiting) == (0, 0)
