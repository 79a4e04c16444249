"""A call that nobody waits for any more is ended at its server, whichever way the client leaves."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.gateway.harness import WAYS, Gateway, Way, call, modern, modern_headers, request
from tests.gateway.test_http_protocol import initialize

pytestmark = pytest.mark.anyio

way = pytest.mark.parametrize("way", WAYS, ids=str)


class Waiting:
    """A call of `raw_wait`: its file says when it has begun, and when it was cancelled."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "wait"
        self.params = call("raw_wait", file=str(self.file))

    def lines(self) -> list[str]:
        return self.file.read_text().split() if self.file.exists() else []

    async def begun(self, gateway: Gateway) -> None:
        await gateway.until(self.lines, "the call did not reach the server")

    async def cancelled(self, gateway: Gateway) -> None:
        await gateway.until(lambda: "cancelled" in self.lines(), "the server was not told")
        assert self.lines() == ["begun", "cancelled"]


@pytest.fixture
def waiting(tmp_path: Path) -> Waiting:
    return Waiting(tmp_path)


@way
async def test_a_cancelled_call_is_ended_at_its_server_and_the_session_lives_on(
    gateway: Gateway, way: Way, waiting: Waiting
) -> None:
    before = sum(line["tool"] == "wait" for line in gateway.audit())
    async with gateway.client(way) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call_tool, "raw_wait", waiting.params["arguments"])
            await waiting.begun(gateway)
            tasks.cancel_scope.cancel()
        await waiting.cancelled(gateway)
        assert (await client.call_tool("raw_echo", {"message": "on"})).content[0].text == "on"

    def outcomes() -> list[str]:
        return [line["outcome"] for line in gateway.audit() if line["tool"] == "wait"]

    await gateway.until(lambda: len(outcomes()) > before, "the call is not on record")
    assert outcomes()[-1] == "cancelled"


async def test_closing_a_modern_post_cancels_its_call(gateway: Gateway, waiting: Waiting) -> None:
    body = modern("tools/call", waiting.params)
    async with gateway.http() as http:
        post = asyncio.ensure_future(http.post("/mcp", json=body, headers=modern_headers(body)))
        await waiting.begun(gateway)
        post.cancel()
    await waiting.cancelled(gateway)


async def test_closing_a_modern_post_that_streams_cancels_its_call(
    gateway: Gateway, waiting: Waiting
) -> None:
    """Once there was progress, the answer is a stream, and closing that is how one leaves."""
    body = modern("tools/call", waiting.params | {"_meta": {"progressToken": "p"}})
    async with gateway.http() as http:
        stream = http.stream("POST", "/mcp", json=body, headers=modern_headers(body))
        async with stream as answer:
            assert answer.headers["content-type"] == "text/event-stream"
            assert await anext(answer.aiter_lines()) == "event: message"
    await waiting.cancelled(gateway)


async def test_a_legacy_call_is_cancelled_by_notification_and_answered_with_an_error(
    gateway: Gateway, waiting: Waiting
) -> None:
    async with gateway.http() as http, asyncio.TaskGroup() as tasks:
        session = await initialize(http)
        body = request("tools/call", waiting.params, "id 1")
        post = tasks.create_task(http.post("/mcp", json=body, headers=session))
        await waiting.begun(gateway)
        note = {"method": "notifications/cancelled", "params": {"requestId": "other"}}
        for request_id in ("other", "id 1"):
            note["params"] = {"requestId": request_id}
            await http.post("/mcp", json={"jsonrpc": "2.0", **note}, headers=session)
        await waiting.cancelled(gateway)
    assert post.result().json()["error"]["message"] == "Request cancelled"


async def test_another_session_cannot_cancel_a_call(gateway: Gateway, waiting: Waiting) -> None:
    async with gateway.http() as http, asyncio.TaskGroup() as tasks:
        mine, other = await initialize(http), await initialize(http)
        body = request("tools/call", waiting.params, 5)
        post = tasks.create_task(http.post("/mcp", json=body, headers=mine))
        await waiting.begun(gateway)
        note = {"jsonrpc": "2.0", "method": "notifications/cancelled"}
        await http.post("/mcp", json={**note, "params": {"requestId": 5}}, headers=other)
        await http.post("/mcp", json=request("tools/call", call("raw_release")), headers=other)
    assert post.result().json()["result"]["content"][0]["text"] == "released"


async def test_deleting_a_legacy_session_ends_its_calls(gateway: Gateway, waiting: Waiting) -> None:
    async with gateway.http() as http, asyncio.TaskGroup() as tasks:
        session = await initialize(http)
        body = request("tools/call", waiting.params)
        tasks.create_task(http.post("/mcp", json=body, headers=session))
        await waiting.begun(gateway)
        await http.delete("/mcp", headers=session)
        await waiting.cancelled(gateway)


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_a_killed_sse_client_ends_its_calls(
    gateway: Gateway, waiting: Waiting, era: str
) -> None:
    async with gateway.http() as http:
        async with http.stream("GET", "/sse") as stream:
            lines = stream.aiter_lines()
            await anext(lines)
            endpoint = (await anext(lines)).removeprefix("data: ")
            body: Any = (request if era == "legacy" else modern)("tools/call", waiting.params)
            assert (await http.post(endpoint, json=body)).status_code == 202
            await waiting.begun(gateway)
        await waiting.cancelled(gateway)


async def test_a_client_that_resets_its_connection_cancels_its_modern_call(
    gateway: Gateway, waiting: Waiting
) -> None:
    async with gateway.http() as http:
        body = modern("tools/call", waiting.params)
        prepared = http.build_request("POST", "/mcp", json=body, headers=modern_headers(body))
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    head = b"".join(b"%s: %s\r\n" % pair for pair in prepared.headers.raw)
    writer.write(b"POST /mcp HTTP/1.1\r\n" + head + b"\r\n" + prepared.content)
    await waiting.begun(gateway)
    writer.transport.abort()
    await waiting.cancelled(gateway)
    assert await reader.read() == b""
