"""Writes in a row: nobody who is alone waits, and nothing is out of order."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mcpcp.bursts import burst

pytestmark = pytest.mark.anyio


class Line:
    """A transport, and what has come at its other end."""

    def __init__(self, transport: asyncio.Transport, end: socket.socket) -> None:
        self.transport = transport
        self.end = end
        self.heard = b""

    def hear(self) -> bytes:
        """All that has come until now."""
        with contextlib.suppress(BlockingIOError):
            self.heard += self.end.recv(1000)
        return self.heard


@asynccontextmanager
async def line() -> AsyncIterator[Line]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
    with theirs:
        yield Line(transport, theirs)
        transport.abort()


async def turn() -> None:
    """Until what was written in this turn has left, and the next has begun."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def read(times: int) -> None:
    burst().heard += times


@asynccontextmanager
async def crowd() -> AsyncIterator[tuple[Line, Line]]:
    """Two lines, after a turn in which a message was written to each when many had been read."""
    async with line() as first, line() as second:
        read(3)
        burst().write(first.transport, b"")
        burst().write(second.transport, b"")
        await turn()
        yield first, second


async def test_a_message_that_is_alone_leaves_at_once() -> None:
    async with line() as only:
        for times in (1, 2, 0):
            read(times)
            burst().write(only.transport, b"x")
            assert only.hear() == b"x"
            only.heard = b""


async def test_in_a_crowd_messages_wait_for_the_end_of_their_turn() -> None:
    async with crowd() as (first, second):
        burst().write(first.transport, b"a")
        burst().write(second.transport, b"b")
        burst().write(first.transport, b"c")
        assert (first.hear(), second.hear()) == (b"", b"")
        await turn()
        assert (first.hear(), second.hear()) == (b"ac", b"b")


async def test_the_first_of_a_crowd_waits_too() -> None:
    async with line() as only:
        read(3)
        burst().write(only.transport, b"a")
        assert only.hear() == b""
        await turn()
        assert only.hear() == b"a"


async def test_a_turn_with_one_message_ends_the_crowd() -> None:
    async with crowd() as (first, _):
        burst().write(first.transport, b"a")
        await turn()
        burst().write(first.transport, b"b")
        assert first.hear() == b"ab"


async def test_what_waits_leaves_before_what_is_written_past_it() -> None:
    async with crowd() as (first, _):
        burst().write(first.transport, b"a")
        burst().flush()
        first.transport.write(b"b")
        assert first.hear() == b"ab"
        await turn()
        assert first.hear() == b"ab"


async def test_who_has_gone_keeps_nobody_waiting() -> None:
    async with crowd() as (first, second):
        burst().write(first.transport, b"a")
        burst().write(second.transport, b"b")
        first.transport.abort()
        await turn()
        assert second.hear() == b"b"


def test_a_loop_that_ended_in_the_middle_holds_up_no_other() -> None:
    async def write(*, end: bool) -> bytes:
        async with line() as only:
            read(3)
            burst().write(only.transport, b"a")
            if not end:
                await turn()
            return only.hear()

    assert asyncio.run(write(end=True)) == b""
    assert asyncio.run(write(end=False)) == b"a"
