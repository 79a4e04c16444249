"""A call goes to another sandbox when, and only when, it is certain that its code did not begin."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import anyio
import psutil
import pytest

from servers.sandboxing.call import Call
from servers.sandboxing.conversation import Job, Link, converse
from servers.sandboxing.inside import frames
from servers.sandboxing.outcome import Limits, Outcome
from tests.servers.sandboxing.runner import Runner

if sys.platform != "linux":
    pytest.skip("only Linux has makers", allow_module_level=True)

from tests.servers.harness import until
from tests.servers.sandboxing.test_pool import WARM, maker_of, sandboxes_of, serving

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]


class Line:
    """The host's end of a link to a sandbox that says `says`, each when it has heard a frame."""

    def __init__(self, says: dict[bytes, bytes]) -> None:
        self._says = says
        self._decoder = frames.Decoder(frames.TO_SANDBOX)
        self._send, self._receive = anyio.create_memory_object_stream[bytes](9)
        self.heard: list[bytes] = []

    async def send(self, data: bytes) -> None:
        for kind, _ in self._decoder.feed(data):
            self.heard.append(kind)
            said = self._says.get(kind)
            if said is not None:
                await self._send.send(said)

    async def receive(self) -> bytes:
        return await self._receive.receive()

    def close(self) -> None:
        self._send.close()
        self._receive.close()


READY, END = frames.encode(frames.READY), b""


@pytest.mark.parametrize(
    ("says", "begun"),
    [
        ({frames.COMPLETE: END}, False),
        ({frames.FILE: END}, False),
        ({frames.COMPLETE: READY, frames.GO: END}, True),
        (
            {frames.COMPLETE: READY, frames.GO: frames.encode(frames.STDOUT, b"x") + b"nonsense"},
            True,
        ),
        ({frames.COMPLETE: b"nonsense"}, False),
    ],
)
async def test_it_may_have_begun_from_the_word_to_begin_on(
    says: dict[bytes, bytes], begun: bool
) -> None:
    line = Line(says)
    try:
        with anyio.fail_after(60):
            course = await converse(line, Job("1", Limits()))
    finally:
        line.close()
    assert (course.begun, course.vanished) == (begun, not begun)
    assert (frames.GO in line.heard) == begun


async def test_one_that_never_gets_ready_is_out_of_time_and_was_not_begun() -> None:
    line = Line({})
    try:
        course = await converse(line, Job("1", Limits(timeout=0.2)))
    finally:
        line.close()
    assert (course.begun, course.vanished, course.timed_out) == (False, False, True)
    assert frames.GO not in line.heard


@dataclass
class Late:
    """A real sandbox's link, on which the word to begin comes late."""

    link: Link
    said: float = 0.0

    async def send(self, data: bytes) -> None:
        if data == frames.encode(frames.GO):
            await anyio.sleep(0.5)
            self.said = time.monotonic()
        await self.link.send(data)

    async def receive(self) -> bytes:
        return await self.link.receive()


@dataclass
class Hasty:
    """A real sandbox's link, on which the word to stop comes with the word to begin."""

    link: Link

    async def send(self, data: bytes) -> None:
        more = frames.encode(frames.STOP) if data == frames.encode(frames.GO) else b""
        await self.link.send(data + more)

    async def receive(self) -> bytes:
        return await self.link.receive()


@pytest.mark.bwrap
async def test_a_word_to_stop_is_heard_that_came_with_the_word_to_begin(
    bwrap: Runner, tmp_path: Path
) -> None:
    async with serving(tmp_path) as (_, backend):
        cell = await backend.make(Limits())
        try:
            job = Job("import time\ntime.sleep(600)", Limits(timeout=250.0))
            course = await converse(Hasty(cell.sandboxed.link), job)
        finally:
            await cell.discard()
    assert course.transcript.report is not None and not course.timed_out
    assert course.transcript.report.stopped == "host"


@pytest.mark.bwrap
async def test_no_code_begins_before_the_word(bwrap: Runner, tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, backend):
        cell = await backend.make(Limits())
        try:
            link = Late(cell.sandboxed.link)
            course = await converse(link, Job("import time\ntime.monotonic()", Limits()))
        finally:
            await cell.discard()
    assert course.transcript.report is not None
    assert float(course.transcript.report.result or "nan") >= link.said > 0


@pytest.mark.bwrap
async def test_a_maker_that_dies_as_a_call_comes_costs_it_nothing(
    bwrap: Runner, tmp_path: Path
) -> None:
    outcomes: list[Outcome] = []
    async with serving(tmp_path) as (sandbox, backend):
        pool = sandbox._pool
        assert pool is not None

        async def run() -> None:
            outcomes.append(await sandbox.run(Call("6 * 7")))

        async def ready(number: int) -> None:
            await until(lambda: pool.ready == number)

        for calls in (1, 4):
            await ready(WARM)
            outermost = maker_of(backend)
            [inner] = outermost.children()
            # as on a machine that gives them no turn: they neither begin nor end
            inner.suspend()
            for process in sandboxes_of(backend):
                process.suspend()
            async with anyio.create_task_group() as tasks:
                for _ in range(calls):
                    tasks.start_soon(run)
                await ready(max(WARM - calls, 0))
                os.kill(outermost.pid, signal.SIGKILL)
                inner.kill()
        assert [outcome.result for outcome in outcomes] == ["42"] * 5, outcomes


@pytest.mark.bwrap
async def test_code_that_began_and_said_nothing_is_not_run_again(
    bwrap: Runner, tmp_path: Path
) -> None:
    name = f"silent{os.getpid()}"
    code = f"import ctypes, time\nctypes.CDLL(None).prctl(15, b'{name}')\ntime.sleep(600)"
    outcomes: list[Outcome] = []
    async with serving(tmp_path) as (sandbox, backend):

        async def run() -> None:
            outcomes.append(await sandbox.run(Call(code)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await until(lambda: name in names())
            os.kill(maker_of(backend).pid, signal.SIGKILL)
        assert [outcome.status for outcome in outcomes] == ["killed"]
        await until(lambda: name not in names())  # no answer waits for what is killed from outside


def names() -> list[str]:
    return [process.info["name"] for process in psutil.process_iter(["name"])]
