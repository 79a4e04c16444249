"""How a server's answers leave, and which of its requests are traced."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import anyio
import pytest
from mcp.client.client import Client
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import MCPServer

from servers.plumbing.tracing import OnlyTraces, spare_spans
from servers.plumbing.wire import JoiningTransport
from tests.servers.harness import DEADLINE, PROBE, connected, running

pytestmark = pytest.mark.anyio

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Written(asyncio.Transport):
    """A transport that goes nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


async def test_a_head_leaves_with_what_follows_it_at_once() -> None:
    beneath = Written()
    transport = JoiningTransport(beneath)
    transport.write(b"head ")
    assert beneath.writes == []
    transport.write(b"body")
    assert beneath.writes == [b"head body"]
    await asyncio.sleep(0)
    assert beneath.writes == [b"head body"]


async def test_a_head_that_nothing_follows_leaves_by_itself() -> None:
    beneath = Written()
    transport = JoiningTransport(beneath)
    transport.write(b"head ")
    await asyncio.sleep(0)
    transport.write(b"later")
    await asyncio.sleep(0)
    assert beneath.writes == [b"head ", b"later"]


async def test_what_was_written_before_the_end_leaves_before_it() -> None:
    beneath = Written()
    transport = JoiningTransport(beneath)
    transport.write(b"head")
    transport.close()
    assert (beneath.writes, beneath.closed) == ([b"head"], True)


async def test_nothing_is_written_to_a_connection_that_was_lost() -> None:
    beneath = Written()
    transport = JoiningTransport(beneath)
    transport.write(b"head")
    beneath.closed = True
    await asyncio.sleep(0)
    assert beneath.writes == []


def test_a_real_answer_ends_with_its_connection() -> None:
    with (
        running(PROBE) as script,
        socket.create_connection(("127.0.0.1", script.port), DEADLINE) as connection,
    ):
        connection.sendall(b"GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b'{"status":"ready"}')


def server_of(middleware: list[Any]) -> MCPServer[Any]:
    server: MCPServer[Any] = MCPServer("traced", middleware=middleware)

    @server.tool()
    async def nothing() -> None:
        return None

    return server


async def test_only_requests_of_a_trace_get_a_span_where_nobody_collects_them() -> None:
    traced: list[str] = []

    async def spans(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        traced.append(ctx.method)
        return await call_next(ctx)

    meta: Any = {"traceparent": TRACE}
    async with Client(server_of([OnlyTraces(spans)])) as client:
        await client.call_tool("nothing")
        assert traced == []
        await client.call_tool("nothing", meta=meta)
    assert traced == ["tools/call"]


def test_the_sdk_s_own_spans_are_those_that_are_spared() -> None:
    server = server_of([])
    before = list(server.middleware)
    spare_spans(server.middleware)
    changed = [now for was, now in zip(before, server.middleware, strict=True) if now is not was]
    assert [type(each) for each in changed] == [OnlyTraces]


async def test_a_client_that_hangs_up_ends_its_call() -> None:
    began = anyio.Event()

    async def told(progress: float, total: float | None, message: str | None) -> None:
        began.set()

    with running(PROBE) as script:
        async with connected(script.url, "http", "2026-07-28") as client:
            await client.list_tools()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(
                    lambda: client.call_tool(
                        "hold", {"seconds": 10 * DEADLINE}, progress_callback=told
                    )
                )
                with anyio.fail_after(DEADLINE):
                    await began.wait()
                tasks.cancel_scope.cancel()
        script.wait_for("call", tool="hold", outcome="cancelled")
