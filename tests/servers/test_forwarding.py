"""The session that calls of the sandbox server share, with a server that does what a test wants."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream
from mcp_types import (
    LATEST_PROTOCOL_VERSION,
    UNSUPPORTED_PROTOCOL_VERSION,
    CallToolResult,
    DiscoverResult,
    ServerCapabilities,
    TextContent,
)

from servers.executing.forwarding import Forwarder, Order, SandboxAway
from servers.executing.route import Sandbox
from servers.plumbing.calls import STOPPING

pytestmark = pytest.mark.anyio

DEADLINE = 60.0

Body = dict[str, Any]
Answer = Callable[["Visit"], Awaitable[None]]
"""What the server does with a call of a tool."""


@dataclass
class Visit:
    """One request: its words, and the connection that it came by."""

    body: Body
    stream: SocketStream

    async def send(
        self, status: str, body: bytes, *headers: str, length: int | None = None
    ) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {length or len(body)}", *headers, "", ""]
        await self.stream.send("\r\n".join(lines).encode() + body)

    async def result(self, result: Body) -> None:
        answer = {"jsonrpc": "2.0", "id": self.body["id"], "result": result}
        await self.send("200 OK", json.dumps(answer).encode(), "Content-Type: application/json")

    async def error(self, code: int, message: str) -> None:
        error = {"code": code, "message": message, "data": {"supported": [], "requested": "x"}}
        answer = {"jsonrpc": "2.0", "id": self.body["id"], "error": error}
        content = "Content-Type: application/json"
        await self.send("400 Bad Request", json.dumps(answer).encode(), content)

    async def done(self) -> None:
        """The result of a tool that says by which name it was called."""
        name = self.body["params"]["arguments"]["name"]
        result = CallToolResult(content=[TextContent(type="text", text=name)])
        await self.result(result.model_dump(mode="json", by_alias=True, exclude_none=True))

    async def hang_up(self) -> None:
        await self.stream.aclose()


async def well(visit: Visit) -> None:
    await visit.done()


@dataclass
class Peer:
    """An HTTP server in the sandbox server's place; `answers` are for the next calls, in turn."""

    port: int = 0
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    handshakes: int = 0
    calls: list[str] = field(default_factory=list)
    open: int = 0
    changed: anyio.Condition = field(default_factory=anyio.Condition)

    @property
    def sandbox(self) -> Sandbox:
        return Sandbox(f"http://127.0.0.1:{self.port}/mcp")

    @asynccontextmanager
    async def listening(self, connections: Any) -> AsyncIterator[None]:
        """Connections that are accepted are served in `connections`, also after the listener."""
        listener = await anyio.create_tcp_listener(
            local_host="127.0.0.1", local_port=self.port, reuse_port=False
        )
        self.port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - nothing of Django's
        async with listener, anyio.create_task_group() as accepting:
            accepting.start_soon(listener.serve, self._serve, connections)
            yield
            accepting.cancel_scope.cancel()

    async def _serve(self, stream: SocketStream) -> None:
        self.open += 1
        await self.note()
        try:
            async with stream:
                received = BufferedByteReceiveStream(stream)
                while True:
                    await self._answer(Visit(await _read(received), stream))
        except (anyio.EndOfStream, anyio.IncompleteRead):
            pass
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            pass
        finally:
            self.open -= 1
            with anyio.CancelScope(shield=True):
                await self.note()

    async def note(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def _answer(self, visit: Visit) -> None:
        if visit.body["method"] == "OPTIONS":
            await visit.send("405 Method Not Allowed", b"")
            return
        if visit.body["method"] == "server/discover":
            self.handshakes += 1
            known = DiscoverResult(
                supported_versions=[LATEST_PROTOCOL_VERSION],
                capabilities=ServerCapabilities(),
                result_type="complete",
                ttl_ms=0,
                cache_scope="private",
            )
            await visit.result(known.model_dump(mode="json", by_alias=True, exclude_none=True))
            return
        name = visit.body["params"]["arguments"]["name"]
        self.calls.append(name)
        await self.note()
        turns = self.answers.get(name, [])
        await (turns.pop(0) if turns else well)(visit)

    async def until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(DEADLINE):
            async with self.changed:
                while not condition():
                    await self.changed.wait()


async def _read(received: BufferedByteReceiveStream) -> Body:
    head = (await received.receive_until(b"\r\n\r\n", 65536)).decode().lower()
    if head.startswith("options"):  # whether anybody is there
        return {"method": "OPTIONS"}
    length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
    body: Body = json.loads(await received.receive_exactly(length))
    return body


@dataclass
class Executor:
    """A forwarder, and what its calls came to."""

    forwarder: Forwarder
    told: dict[str, str] = field(default_factory=dict)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    async def cancellable(self, name: str) -> None:
        with self.scope:
            await self.call(name)

    async def call(self, name: str, answer_in: float = DEADLINE) -> str:
        """What the tool says, or what is said instead."""
        order = Order("execute_code", {"name": name}, {}, answer_in)
        try:
            result = await self.forwarder.call(order, _unheard)
        except SandboxAway as e:
            self.told[name] = str(e)
        else:
            [part] = result.content
            assert isinstance(part, TextContent)
            self.told[name] = part.text
        return self.told[name]


async def _unheard(progress: float, total: float | None, message: str | None) -> None:
    pass


@asynccontextmanager
async def connected(connect_in: float = DEADLINE) -> AsyncIterator[tuple[Peer, Executor]]:
    """A peer and a forwarder that calls it; at the end no connection is left."""
    peer = Peer()
    async with anyio.create_task_group() as connections, peer.listening(connections):
        forwarder = Forwarder(lambda: peer.sandbox, connect_in)
        async with forwarder.ready():
            yield peer, Executor(forwarder)
        await peer.until(lambda: peer.open == 0)
        connections.cancel_scope.cancel()


async def test_calls_share_one_session() -> None:
    async with connected() as (peer, executor):
        async with anyio.create_task_group() as tasks:
            for n in range(20):
                tasks.start_soon(executor.call, str(n))
        for n in range(20, 40):
            await executor.call(str(n))
        assert executor.told == {str(n): str(n) for n in range(40)}
        assert peer.handshakes == 1
        assert sorted(peer.calls, key=int) == [str(n) for n in range(40)]


async def test_nobody_is_connected_to_before_the_first_call() -> None:
    async with connected() as (peer, _):
        assert (peer.open, peer.handshakes) == (0, 0)


async def test_a_cancelled_call_hangs_up_and_disturbs_no_other() -> None:
    released = anyio.Event()
    gone = anyio.Event()

    async def late(visit: Visit) -> None:
        await released.wait()
        await visit.done()

    async def until_it_hangs_up(visit: Visit) -> None:
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await visit.stream.receive()
        gone.set()
        raise anyio.EndOfStream

    async with connected() as (peer, executor):
        peer.answers = {"late": [late], "cancelled": [until_it_hangs_up]}
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(executor.call, "late")
            tasks.start_soon(executor.cancellable, "cancelled")
            await peer.until(lambda: {"late", "cancelled"} <= set(peer.calls))
            executor.scope.cancel()
            with anyio.fail_after(DEADLINE):
                await gone.wait()
            assert await executor.call("next") == "next"
            released.set()
        assert executor.told == {"late": "late", "next": "next"}
        assert (peer.handshakes, len(peer.calls)) == (1, 3)


async def test_the_one_who_opens_the_session_may_be_cancelled() -> None:
    async with connected() as (peer, executor):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(executor.cancellable, "first")
            tasks.start_soon(executor.call, "second")
            await peer.until(lambda: peer.open > 0)
            executor.scope.cancel()
        assert executor.told["second"] == "second"


async def hang_up(visit: Visit) -> None:
    await visit.hang_up()


async def cut_short(visit: Visit) -> None:
    """An answer that its head promises to be longer."""
    await visit.send("200 OK", b'{"jsonrpc"', "Content-Type: application/json", length=999)
    await visit.hang_up()


async def cut_stream(visit: Visit) -> None:
    await visit.send("200 OK", b": hello\n\n", "Content-Type: text/event-stream", length=999)
    await visit.hang_up()


async def empty_stream(visit: Visit) -> None:
    """As a server ends streams when it stops in order."""
    await visit.send("200 OK", b": bye\n\n", "Content-Type: text/event-stream")


async def stopping(visit: Visit) -> None:
    await visit.send("503 Service Unavailable", b"stopping", "Content-Type: text/plain")


async def failing(visit: Visit) -> None:
    await visit.send("500 Internal Server Error", b"oh", "Content-Type: text/plain")


@pytest.mark.parametrize(
    "mishap", [hang_up, cut_short, cut_stream, empty_stream, stopping, failing]
)
async def test_a_call_that_was_sent_and_lost_is_told_so_and_not_sent_again(mishap: Answer) -> None:
    released = anyio.Event()

    async def late(visit: Visit) -> None:
        await released.wait()
        await visit.done()

    async with connected() as (peer, executor):
        peer.answers = {"late": [late], "lost": [mishap]}
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(executor.call, "late")
            await peer.until(lambda: "late" in peer.calls)
            assert "the code may have run" in await executor.call("lost")
            assert await executor.call("next") == "next"
            released.set()
        assert executor.told["late"] == "late"  # on the session that the other call was lost on
        assert peer.calls == ["late", "lost", "next"]


async def come_back_later(visit: Visit) -> None:
    head = ("Content-Type: text/plain", "Retry-After: 1")
    await visit.send("503 Service Unavailable", b"stopping", *head)


async def unknown_session(visit: Visit) -> None:
    await visit.send("404 Not Found", b"", "Content-Type: text/plain")


async def another_era(visit: Visit) -> None:
    await visit.error(UNSUPPORTED_PROTOCOL_VERSION, "unsupported protocol version")


async def about_to_stop(visit: Visit) -> None:
    await visit.error(STOPPING, "the server is stopping and did not run the call")


@pytest.mark.parametrize(
    ("answer", "handshakes"),
    [(come_back_later, 1), (unknown_session, 2), (another_era, 2), (about_to_stop, 2)],
)
async def test_a_call_that_the_server_did_not_take_is_sent_again(
    answer: Answer, handshakes: int
) -> None:
    async with connected() as (peer, executor):
        peer.answers = {"call": [answer]}
        assert await executor.call("call") == "call"
        assert (peer.calls, peer.handshakes) == (["call", "call"], handshakes)


async def test_a_call_that_the_server_refuses_is_an_error_of_its_own() -> None:
    async def refuse(visit: Visit) -> None:
        await visit.error(-32602, "no such tool")

    async with connected() as (peer, executor):
        peer.answers = {"call": [refuse]}
        assert await executor.call("call") == "the sandbox server refused the call: no such tool"
        assert await executor.call("next") == "next"
        assert (peer.calls, peer.handshakes) == (["call", "next"], 1)


async def until_tried(caplog: pytest.LogCaptureFixture) -> None:
    with anyio.fail_after(DEADLINE):
        while "tried again" not in caplog.text:  # noqa: ASYNC110 - a log tells nobody
            await anyio.sleep(0.01)


async def test_where_nobody_listens_a_call_waits_and_those_under_way_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    released = anyio.Event()

    async def late(visit: Visit) -> None:
        await released.wait()
        await visit.done()

    peer = Peer(answers={"late": [late]})
    executor = Executor(Forwarder(lambda: peer.sandbox, DEADLINE))
    async with anyio.create_task_group() as connections:
        async with executor.forwarder.ready(), anyio.create_task_group() as tasks:
            async with peer.listening(connections):
                tasks.start_soon(executor.call, "late")
                await peer.until(lambda: "late" in peer.calls)
            tasks.start_soon(executor.call, "next")
            await until_tried(caplog)
            async with peer.listening(connections):
                await peer.until(lambda: "next" in peer.calls)
                released.set()
                await peer.until(lambda: len(peer.calls) == 2)
        connections.cancel_scope.cancel()
    assert executor.told == {"late": "late", "next": "next"}
    assert peer.calls == ["late", "next"]


async def test_a_call_has_a_deadline_of_its_own() -> None:
    async def never(visit: Visit) -> None:
        await visit.stream.receive()

    async with connected() as (peer, executor):
        peer.answers = {"call": [never]}
        assert "has not answered for 0 s" in await executor.call("call", answer_in=0.3)
        assert await executor.call("next") == "next"
        assert (peer.calls, peer.handshakes) == (["call", "next"], 1)


async def test_a_server_that_says_nothing_at_all_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        forwarder = Forwarder(lambda: Sandbox(f"http://127.0.0.1:{port}/mcp"), 0.3)
        async with forwarder.ready():
            told = await Executor(forwarder).call("call")
    assert "can't be reached (it did not answer within 0 s)" in told
    assert "the code was not run" in told


async def test_a_session_that_calls_use_outlives_its_successor() -> None:
    released = anyio.Event()

    async def late(visit: Visit) -> None:
        await released.wait()
        await visit.done()

    async with connected() as (peer, executor):
        peer.answers = {"late": [late], "next": [unknown_session]}
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(executor.call, "late")
            await peer.until(lambda: peer.calls == ["late"])
            assert await executor.call("next") == "next"
            released.set()
        assert (executor.told["late"], peer.handshakes) == ("late", 2)
