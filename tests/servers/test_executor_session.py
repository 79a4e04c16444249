"""code_executor.py over its one session with the real sandbox server: large answers, restarts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, ImageContent

from tests.servers.harness import Script
from tests.servers.test_code_executor import execute, executor, sandbox, text

pytestmark = [pytest.mark.anyio, pytest.mark.bwrap, pytest.mark.timeout(400)]

PATIENCE = 300.0

IMAGE = """
import os, struct, zlib
def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
size = struct.pack(">IIBBBBB", 1000, 700, 8, 2, 0, 0, 0)
rows = b"".join(b"\\0" + os.urandom(3000) for _ in range(700))
with open("noise.png", "wb") as file:
    file.write(b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", size))
    file.write(chunk(b"IDAT", zlib.compress(rows, 0)) + chunk(b"IEND", b""))
"""


@asynccontextmanager
async def client(script: Script) -> AsyncIterator[Client]:
    """With patience for a sandbox server that starts anew, and an image of any size."""
    async with (
        httpx2.AsyncClient(timeout=PATIENCE) as http,
        Client(
            streamable_http_client(f"{script.url}/mcp", http_client=http, max_sse_event_size=None)
        ) as opened,
    ):
        yield opened


async def test_an_image_of_two_megabytes_comes_through(tmp_path: Path) -> None:
    with sandbox(tmp_path) as inner, executor(inner.url) as outer:
        async with client(outer) as opened:
            ran = await execute(opened, IMAGE)
    [image] = [part for part in ran.content if isinstance(part, ImageContent)]
    assert len(image.data) > 2_000_000


async def test_calls_across_a_restart_are_answered_or_lost_and_never_run_twice(
    tmp_path: Path,
) -> None:
    told: dict[int, CallToolResult] = {}
    with sandbox(tmp_path) as inner, executor(inner.url, EXECUTOR_CONNECT_TIMEOUT="200") as outer:
        async with client(outer) as opened, anyio.create_task_group() as tasks:

            async def run(n: int) -> None:
                told[n] = await execute(opened, f"open('{n}', 'x').close()", session="s")

            for n in range(6):
                tasks.start_soon(run, n)
            await execute(opened, "1")
            await anyio.to_thread.run_sync(inner.stop)
            with sandbox(tmp_path, "--port", str(inner.port)):
                for n in range(6, 12):
                    await run(n)
                while len(told) < 12:  # noqa: ASYNC110 - the last ones of before the restart
                    await anyio.sleep(0.02)
                listed = await execute(opened, "import os\nlen(os.listdir())", session="s")
    lost = [result for result in told.values() if result.is_error]
    assert all("may have run" in text(result) for result in lost), lost
    assert all(not told[n].is_error for n in range(6, 12))
    assert listed.structured_content
    assert int(listed.structured_content["result"]) >= 12 - len(lost)
