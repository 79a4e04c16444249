"""What is made of a sandbox that falls silent: whether its code ever began."""

from __future__ import annotations

import socket
import time

import anyio
import pytest

from servers.sandboxing.conversation import Course, Job, converse
from servers.sandboxing.inside import frames
from servers.sandboxing.outcome import Limits
from servers.sandboxing.sockets import SocketLink

pytestmark = pytest.mark.anyio


async def after(*said: bytes) -> Course:
    """The course of a conversation in which the sandbox says this and is gone."""
    ours, theirs = socket.socketpair()
    with theirs:
        for kind in said:
            theirs.sendall(frames.encode(kind))
    link = SocketLink(ours)
    try:
        return await converse(link, Job("1", Limits()))
    finally:
        link.close()


async def test_a_sandbox_that_was_gone_before_its_code_began_ran_nothing() -> None:
    assert (await after()).vanished
    assert (await after(frames.HELLO)).vanished


async def test_a_sandbox_that_was_killed_while_its_code_ran_is_not_asked_again() -> None:
    assert not (await after(frames.HELLO, frames.BEGUN)).vanished


async def late_by_half(timeout: float) -> tuple[bool, float]:
    """A sandbox that takes half of the code's time to begin: whether it did before it was told to
    stop, and how long it had then."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    link, heard, stop = SocketLink(ours), bytearray(), frames.encode(frames.STOP)
    had: list[float] = []

    async def hear(word: bytes) -> None:
        while not heard.endswith(word):
            await anyio.wait_readable(theirs)
            heard.extend(theirs.recv(1 << 16))

    async def begin_late() -> None:
        await hear(frames.encode(frames.GO))
        with anyio.move_on_after(timeout / 2):
            await hear(stop)
        began = time.monotonic()
        theirs.send(frames.encode(frames.BEGUN))
        if not heard.endswith(stop):
            await hear(stop)
            had.append(time.monotonic() - began)
        theirs.close()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(begin_late)
        await converse(link, Job("1", Limits(timeout=timeout)))
    link.close()
    return bool(had), sum(had)


async def test_the_code_s_time_runs_from_when_it_begins() -> None:
    for timeout in (0.5, 5.0, 50.0):  # as the machine is quick enough to show it
        began_in_time, had = await late_by_half(timeout)
        if began_in_time:
            assert had >= timeout
            return
    raise AssertionError("half a minute was not enough to begin")


async def test_a_deadline_that_passed_first_is_a_deadline() -> None:
    ours, theirs = socket.socketpair()
    link = SocketLink(ours)
    with theirs:
        async with anyio.create_task_group() as tasks:

            async def go_when_it_is_told_to_stop() -> None:
                heard = b""
                while not heard.endswith(frames.encode(frames.STOP)):
                    await anyio.wait_readable(theirs)
                    heard += theirs.recv(1 << 16)
                theirs.close()

            tasks.start_soon(go_when_it_is_told_to_stop)
            course = await converse(link, Job("1", Limits(timeout=0.1)))
    link.close()
    assert course.timed_out and not course.vanished
