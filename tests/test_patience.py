"""Deadlines that count only the time in which we could have heard the other side."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable

import pytest
import uvloop

from mcpcp.patience import STANDSTILL, patience

LOOPS = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
NewLoop = Callable[[], asyncio.AbstractEventLoop]


@LOOPS
def test_what_came_while_we_stood_still_is_heard(loop: NewLoop) -> None:
    ours, theirs = socket.socketpair()

    def stand_still() -> None:
        time.sleep(4 * STANDSTILL)
        theirs.send(b"x")

    async def hear() -> bytes:
        reader, writer = await asyncio.open_connection(sock=ours)
        try:
            async with patience(STANDSTILL):
                asyncio.get_running_loop().call_soon(stand_still)
                return await reader.readexactly(1)
        finally:
            writer.close()
            await writer.wait_closed()

    with theirs, asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(hear()) == b"x"


@LOOPS
def test_who_says_nothing_is_given_up(loop: NewLoop) -> None:
    async def hear() -> None:
        async with patience(0.01):
            await asyncio.Event().wait()

    with asyncio.Runner(loop_factory=loop) as runner, pytest.raises(TimeoutError):
        runner.run(hear())


@LOOPS
def test_what_is_in_time_is_left_alone(loop: NewLoop) -> None:
    async def hear() -> str:
        async with patience(0.01):
            heard = "soon"
        await asyncio.sleep(0.05)
        return heard

    with asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(hear()) == "soon"
