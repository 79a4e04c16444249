"""HTTP clients that are slow, silent, many or too long: each costs a connection or one error, and
nobody else anything. The ten seconds for a head are those of an injected clock."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from mcpcp.config import load
from mcpcp.frontends.connection import HEAD_TIMEOUT, LONGEST_HEAD
from mcpcp.frontends.http import HttpFrontend
from mcpcp.frontends.serving import HttpServer
from mcpcp.service import running_gateway
from tests.gateway import fastclock
from tests.gateway.harness import PATIENCE, Gateway, call, modern, modern_headers

HEAD = b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def served(folder: Path, keys: Path) -> AsyncIterator[int]:
    """The port of a gateway in this loop, without servers."""
    file = folder / "mcpcp.json"
    text = {"mcpServers": {}, "keys_dir": str(keys), "data_dir": str(folder / "data")}
    file.write_text(json.dumps(text))
    config = load(file, {})
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        async with running_gateway(config, None) as gateway, asyncio.TaskGroup() as tasks:
            server = HttpServer(HttpFrontend(gateway, tasks, ""), tasks)
            async with server.listening(listener):
                yield listener.getsockname()[1]


async def trickle(port: int, *pieces: bytes) -> float:
    """Send the pieces a second apart, the last one for ever; the seconds until we are cut off."""
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began, left = loop.time(), list(pieces)
    ended = asyncio.ensure_future(_end(reader))
    while not ended.done():
        if left:
            writer.write(left.pop(0) if len(left) > 1 else left[0])
        await asyncio.wait((ended,), timeout=1)
    writer.close()
    return loop.time() - began


async def _end(reader: asyncio.StreamReader) -> None:
    try:
        while await reader.read(65536):
            pass
    except ConnectionError:
        pass


@pytest.mark.parametrize(
    "pieces",
    [(), (HEAD, b"X"), (HEAD, b"X-Slow: a\r\n"), (b"P", b"")],
    ids=["nothing", "a name for ever", "headers for ever", "one byte"],
)
def test_a_head_that_does_not_come_costs_its_connection_after_ten_seconds(
    tmp_path: Path, keys: Path, pieces: tuple[bytes, ...]
) -> None:
    async def work() -> None:
        async with served(tmp_path, keys) as port:
            with fastclock.jumping():
                seconds = await trickle(port, *pieces)
        assert HEAD_TIMEOUT - 0.5 <= seconds < HEAD_TIMEOUT + 5

    fastclock.run(work())


def test_a_body_that_does_not_come_is_answered_once_and_ends(tmp_path: Path, keys: Path) -> None:
    async def work() -> None:
        async with served(tmp_path, keys) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HEAD + b"Content-Length: 100\r\n\r\n{")
            with fastclock.jumping():
                head = await reader.readuntil(b"\r\n\r\n")
            assert head.split()[1] in (b"400", b"401")
            writer.close()

    fastclock.run(work())


@pytest.mark.anyio
async def test_a_head_without_an_end_is_cut_off_in_bounded_memory(gateway: Gateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(HEAD)
    sent = 0
    async with asyncio.timeout(PATIENCE):
        try:
            while not reader.at_eof() and sent < 100 * LONGEST_HEAD:
                writer.write(b"X-Long: " + b"x" * 8000 + b"\r\n")
                await writer.drain()
                sent += 8000
                await asyncio.sleep(0)
            await _end(reader)
        except ConnectionError:
            pass
    assert sent < 100 * LONGEST_HEAD
    writer.close()
    assert gateway.get("/health")[0] == 200


@pytest.mark.anyio
async def test_a_thousand_half_open_connections_slow_nobody_down(gateway: Gateway) -> None:
    body = modern("tools/call", call("raw_echo", message="quick"))
    with ExitStack() as stack:
        for number in range(1000):
            silent = stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port)))
            if number % 2:
                with contextlib.suppress(ConnectionError):  # of a busy machine's: it was cut off
                    silent.sendall(HEAD)
        async with gateway.http() as http, asyncio.timeout(PATIENCE):
            for _ in range(20):
                answer = await http.post("/mcp", json=body, headers=modern_headers(body))
                assert '"text":"quick"' in answer.text


@pytest.mark.anyio
@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET\r\n\r\n",
        b"POST /mcp HTTP/9.9\r\n\r\n",
        b"POST /mcp HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /mcp HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        b"POST /mcp HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_one_error_and_the_end(gateway: Gateway, garbage: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(garbage)
    async with asyncio.timeout(PATIENCE):
        try:
            answer = await reader.read()
        except ConnectionError:
            answer = b""
    writer.close()
    assert answer == b"" or answer.split()[1].startswith(b"4")
    assert answer.count(b"HTTP/1.1 ") <= 1
    assert gateway.get("/health")[0] == 200
