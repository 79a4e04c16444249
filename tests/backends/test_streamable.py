"""The streamable transport, where its end and an answer meet."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from mcpcp.backends.streamable import StreamableTransport
from mcpcp.errors import Unavailable
from tests.backends.raw import PATIENCE, answering, chunked, serving

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_stream_that_begins_when_the_connection_has_ended_is_let_go() -> None:
    """Any other error than this would hide that the connection was meant to end."""
    stream = chunked(b": hello\n\n", content_type="text/event-stream", end=False)
    async with serving(answering(stream)) as server:
        transport = StreamableTransport(server.url, {}, lambda _: {}, None)
        ready = asyncio.Event()
        carrier = asyncio.create_task(transport.run(ready.set, lambda *_: None, lambda *_: None))
        async with asyncio.timeout(PATIENCE):
            await ready.wait()
            carrier.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await carrier
            with pytest.raises(Unavailable):
                await transport.send({"jsonrpc": "2.0", "id": 1, "method": "ping"})
