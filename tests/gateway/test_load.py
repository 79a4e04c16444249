"""Many clients, and clients that do not read: everybody is served, memory stays bounded."""

from __future__ import annotations

import asyncio
import json

import psutil
import pytest

from tests.gateway.harness import PATIENCE, Gateway, Way, call, modern, modern_headers, request
from tests.gateway.test_http_protocol import initialize

pytestmark = pytest.mark.anyio

MEGABYTE = 2**20


def memory(gateway: Gateway) -> int:
    return int(psutil.Process(gateway.pid).memory_info().rss)


async def test_200_clients_at_once_each_get_their_own_answers(gateway: Gateway) -> None:
    token = gateway.token()

    async def client(number: int) -> None:
        async with gateway.http(token) as http:
            session = await initialize(http) if number % 2 else {}
            for turn in range(5):
                params = call("raw_echo", message=f"{number}/{turn}")
                body = request("tools/call", params, turn)
                if not session:
                    body = modern("tools/call", params, turn)
                headers = session or modern_headers(body)
                answer = (await http.post("/mcp", json=body, headers=headers)).json()
                assert answer["id"] == turn
                assert answer["result"]["content"][0]["text"] == f"{number}/{turn}"

    async with asyncio.TaskGroup() as tasks:
        for number in range(200):
            tasks.create_task(client(number))


async def test_200_sessions_with_open_streams_hear_of_one_change(gateway: Gateway) -> None:
    token = gateway.token()
    ready, told = asyncio.Semaphore(0), 0

    async def listen() -> None:
        nonlocal told
        async with gateway.http(token) as http:
            session = await initialize(http)
            async with http.stream("GET", "/mcp", headers=session) as stream:
                ready.release()
                async for line in stream.aiter_lines():
                    if "tools/list_changed" in line:
                        told += 1
                        return

    for _ in range(2):
        told = 0
        async with asyncio.TaskGroup() as tasks:
            for _ in range(200):
                tasks.create_task(listen())
            for _ in range(200):
                await ready.acquire()
            async with gateway.client(Way("http", "auto")) as client:
                await client.call_tool("raw_grow", {"name": "for_all"})
        assert told == 200


async def send_raw(gateway: Gateway, method: str, path: str, body: bytes) -> asyncio.StreamWriter:
    """A request whose answer nobody reads."""
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1024)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {gateway.token()}\r\nContent-Length: {len(body)}\r\n"
    )
    if method == "POST":
        message = json.loads(body)
        head += "".join(f"{name}: {value}\r\n" for name, value in modern_headers(message).items())
    writer.write(head.encode() + b"\r\n" + body)
    await writer.drain()
    return writer


async def others_are_served(gateway: Gateway) -> None:
    """Calls of a client that reads, while another one does not."""
    async with gateway.client(Way("http", "auto")) as client, asyncio.timeout(PATIENCE):
        for _ in range(20):
            await client.call_tool("o_echo", {"message": "hi"})


async def test_a_reader_that_stops_reading_progress_costs_bounded_memory(gateway: Gateway) -> None:
    before = memory(gateway)
    params = call("raw_progress", steps=20_000, size=10_000) | {"_meta": {"progressToken": 1}}
    writer = await send_raw(
        gateway, "POST", "/mcp", json.dumps(modern("tools/call", params)).encode()
    )
    try:
        await others_are_served(gateway)
        async with gateway.client(Way("http", "auto")) as client:  # after the flood, in its order
            await client.call_tool("raw_echo", {"message": "through"})
        assert memory(gateway) - before < 100 * MEGABYTE, "the flood had 200 MB"
    finally:
        writer.transport.abort()


async def test_a_reader_that_stops_reading_answers_costs_bounded_memory(gateway: Gateway) -> None:
    before = memory(gateway)
    async with gateway.http() as http:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        token = gateway.token()
        head = f"GET /sse HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
        writer.write(head.encode())
        await reader.readuntil(b"data: ")
        endpoint = (await reader.readline()).decode().strip()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        for number in range(100):
            body = modern("tools/call", call("raw_big", size=4 * MEGABYTE), number)
            answer = await http.post(endpoint, json=body)
            if answer.status_code == 404:  # the stream was given up, and the session with it
                break
        await others_are_served(gateway)
        async with gateway.client(Way("http", "auto")) as client:
            await client.call_tool("raw_echo", {"message": "through"})
        assert memory(gateway) - before < 200 * MEGABYTE, "the answers had 400 MB"
        writer.transport.abort()
