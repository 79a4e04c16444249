"""What is made of a sandbox that falls silent: whether its code ever began."""

from __future__ import annotations

import socket

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
