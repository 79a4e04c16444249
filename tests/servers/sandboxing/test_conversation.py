"""What a run's time counts, with a sandbox played over a real socket."""

from __future__ import annotations

import contextlib
import socket
import time

import anyio
import pytest

from servers.sandboxing.conversation import Course, Job, converse
from servers.sandboxing.inside import frames
from servers.sandboxing.outcome import Limits
from servers.sandboxing.sockets import SocketLink

pytestmark = pytest.mark.anyio


class Played:
    """The sandbox's end of a conversation, which is ready `late` seconds after it could be."""

    def __init__(self, late: float = 0.0) -> None:
        self.had = 0.0
        """Seconds from when it was ready to when it was told to stop; 0 where it never was."""
        self._late = late
        self._ours, self._theirs = socket.socketpair()
        self._theirs.setblocking(False)
        self._heard = bytearray()

    async def converse(self, timeout: float) -> Course:
        """One run of a program that would go on for ever."""
        link = SocketLink(self._ours)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._play)
            course = await converse(link, Job("1", Limits(timeout=timeout)))
            link.close()
        return course

    async def _play(self) -> None:
        with self._theirs, contextlib.suppress(BrokenPipeError):  # the host did not wait for it
            await self._hear(frames.COMPLETE)
            await anyio.sleep(self._late)
            ready = time.monotonic()
            self._theirs.send(frames.encode(frames.READY))
            if await self._hear(frames.STOP):
                self.had = time.monotonic() - ready

    async def _hear(self, kind: bytes) -> bool:
        """Listen until the host has said this; whether it has, before it hung up."""
        while not self._heard.endswith(frames.encode(kind)):
            await anyio.wait_readable(self._theirs)
            piece = self._theirs.recv(1 << 16)
            if not piece:
                return False
            self._heard.extend(piece)
        return True


async def test_the_code_s_time_runs_from_when_it_begins() -> None:
    for timeout in (0.5, 5.0, 50.0):  # as the machine is quick enough to show it
        sandbox = Played(late=timeout / 2)
        course = await sandbox.converse(timeout)
        if course.begun:
            assert sandbox.had >= timeout
            return
    raise AssertionError("half a minute was not enough to begin")


async def test_a_deadline_that_passed_first_is_a_deadline() -> None:
    course = await Played().converse(timeout=5.0)
    assert course.timed_out and course.begun and not course.vanished
