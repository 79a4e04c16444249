"""The stdio transport over children of bad manners: none of them, nor of theirs, is left."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mcpcp.backends import stdio
from mcpcp.backends.stdio import StdioTransport
from mcpcp.errors import Unavailable
from tests import processes
from tests.backends.raw import PATIENCE

pytestmark = pytest.mark.anyio
STUBBORN = Path(__file__).parents[1] / "programs" / "stubborn.py"


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Both loops: they tell differently of a child's end."""
    if request.param:
        pytest.importorskip("uvloop")
    return "asyncio", {"use_uvloop": request.param}


class Child:
    """A running transport, what it received, and how it ended."""

    def __init__(self, *flags: str, env: dict[str, str] | None = None) -> None:
        argv = (sys.executable, str(STUBBORN), *flags)
        self.transport = StdioTransport("child", argv, dict(os.environ) | (env or {}), None)
        self.messages: asyncio.Queue[Any] = asyncio.Queue()
        self.ended: asyncio.Task[str]

    async def run(self) -> str:
        opened = asyncio.Event()
        try:
            await self.transport.run(
                opened.set,
                lambda message, related=None: self.messages.put_nowait(message),
                lambda request_id, error: None,
            )
        except Unavailable as error:
            return str(error)
        return "no reason given"

    async def next(self) -> Any:
        async with asyncio.timeout(PATIENCE):
            return await self.messages.get()

    async def end(self) -> str:
        async with asyncio.timeout(PATIENCE):
            return await self.ended


@asynccontextmanager
async def child(*flags: str, env: dict[str, str] | None = None) -> AsyncIterator[Child]:
    running = Child(*flags, env=env)
    async with asyncio.TaskGroup() as tasks:
        running.ended = tasks.create_task(running.run())
        yield running
        running.ended.cancel()


async def gone(pid: int) -> None:
    """Return once nothing runs there; a killed grandchild is its new parent's to reap."""
    async with asyncio.timeout(PATIENCE):
        while processes.alive(pid):  # noqa: ASYNC110  (no event tells of other processes' children)
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child may take its time to end, and a test that needs a signal for it fails."""
    monkeypatch.setattr(stdio, "STOP_TIMEOUT", 3 * PATIENCE)


@pytest.fixture
def impatient(_patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that does not end is signalled soon."""
    monkeypatch.setattr(stdio, "STOP_TIMEOUT", 0.4)


async def test_messages_go_in_and_out_one_a_line() -> None:
    async with child() as running:
        pid = (await running.next())["ready"]
        assert running.transport.pid == pid
        for n in range(3):
            await running.transport.send({"n": n, "text": "a\nb\u2028"})
            answer = await running.next()
            assert answer == {"pid": pid, "got": {"n": n, "text": "a\nb\u2028"}}
    await gone(pid)
    assert running.transport.pid is None


async def test_a_polite_child_ends_with_its_input_at_once() -> None:
    async with child() as running:
        pid = (await running.next())["ready"]
        stopping = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - stopping < PATIENCE, "it had to be signalled"
    assert not processes.alive(pid)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("flags", [("eternal",), ("eternal", "deaf")])
async def test_a_child_that_ignores_the_end_of_its_input_is_stopped(flags: tuple[str, ...]) -> None:
    async with child(*flags) as running:
        pid = (await running.next())["ready"]
    assert not processes.alive(pid)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("flags", [(), ("eternal", "deaf"), ("brief",)])
async def test_grandchildren_of_the_child_s_group_are_not_left_either(
    flags: tuple[str, ...],
) -> None:
    async with child("breed", *flags) as running:
        grandchild = (await running.next())["grandchild"]
        await running.next()
        assert processes.alive(grandchild)
        if "brief" in flags:
            await running.transport.send({})
    await gone(grandchild)


async def test_a_killed_child_is_noticed_though_its_children_hold_the_pipe() -> None:
    async with child("breed") as running:
        grandchild = (await running.next())["grandchild"]
        pid = (await running.next())["ready"]
        os.kill(pid, signal.SIGKILL)
        assert "SIGKILL" in await running.end()
    await gone(grandchild)


async def test_stray_prints_do_not_break_the_wire() -> None:
    async with child("garbage") as running:
        await running.next()
        for n in range(3):
            await running.transport.send({"n": n})
            assert (await running.next())["got"] == {"n": n}


async def test_a_child_that_dies_says_how_with_its_last_words() -> None:
    async with child("brief") as running:
        await running.next()
        await running.transport.send({})
        assert await running.end() == "the server exited with code 3: I can't go on"
        with pytest.raises(Unavailable):
            await running.transport.send({})
        running.transport.send_soon({})


@pytest.mark.usefixtures("impatient")
async def test_a_line_without_bounds_ends_the_connection_not_us() -> None:
    async with child("giant") as running:
        await running.next()
        await running.transport.send({})
        await running.end()
        assert running.messages.empty()


async def test_a_command_that_does_not_exist_is_unavailable_and_named() -> None:
    transport = StdioTransport("x", ("/nonexistent/program",), {}, None)
    with pytest.raises(Unavailable, match=r"/nonexistent/program: No such file"):
        await transport.run(
            lambda: None, lambda message, related=None: None, lambda request_id, error: None
        )


@pytest.mark.usefixtures("impatient")
async def test_a_child_that_does_not_read_holds_up_its_own_requests_only() -> None:
    async with child("eternal") as running:
        pid = (await running.next())["ready"]
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                while True:
                    await running.transport.send({"x": "y" * 100_000})
        running.transport.send_soon({"never": "waits"})
    assert not processes.alive(pid)
