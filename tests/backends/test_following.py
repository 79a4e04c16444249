"""Streams that are followed: each event is handed on as it comes, to the end or to satisfaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

import pytest

from mcpcp.backends.events import Place, follow
from mcpcp.backends.http import HttpClient, Response
from mcpcp.errors import Interrupted, ProtocolError, Unavailable
from tests.backends.raw import Handler, answering, ask, chunked, serving

pytestmark = pytest.mark.anyio

EVENT_STREAM = "text/event-stream"
ONE, TWO = b"id: 1\ndata: one\n\n", b"id: 2\r\nevent: other\r\ndata: two\r\n\r\n"
whose: ContextVar[str] = ContextVar("whose", default="nobody's")


@asynccontextmanager
async def answer_of(handler: Handler) -> AsyncIterator[tuple[Response, HttpClient]]:
    async with serving(handler) as server:
        client = HttpClient(server.url, {})
        try:
            async with asyncio.timeout(30):
                yield await client.request("GET", "/", {}), client
        finally:
            client.close()


async def test_events_come_in_their_order_to_the_end_of_the_stream() -> None:
    found: list[tuple[str, bytes]] = []
    place = Place()
    stream = answering(chunked(ONE, TWO[:9], TWO[9:], content_type=EVENT_STREAM))
    async with answer_of(stream) as (answer, client):
        await follow(answer, lambda event, data: found.append((event, data)), place)
        assert found == [("message", b"one"), ("other", b"two")]
        assert place.last_id == "2"
        again = await client.request("GET", "/", {})  # on the connection that is free again
        assert again.address == answer.address
        await again.read()


async def test_who_is_satisfied_is_told_no_more_and_the_stream_is_closed() -> None:
    found: list[bytes] = []

    def take(event: str, data: bytes) -> bool:
        found.append(data)
        return data == b"one"

    stream = answering(chunked(ONE + TWO, content_type=EVENT_STREAM, end=False))
    async with answer_of(stream) as (answer, _):
        await follow(answer, take)
        assert found == [b"one"]


async def test_what_goes_wrong_with_an_event_is_raised_where_it_was_followed() -> None:
    def take(event: str, data: bytes) -> None:
        raise ProtocolError(f"not {data.decode()}")

    for end in (True, False):  # in the last piece, and with more to come
        stream = answering(chunked(ONE, TWO, content_type=EVENT_STREAM, end=end))
        async with answer_of(stream) as (answer, _):
            with pytest.raises(ProtocolError, match="not one"):
                await follow(answer, take)


async def test_an_event_is_taken_in_the_context_of_who_follows() -> None:
    seen: list[str] = []
    go = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ask(reader)
        writer.write(chunked(content_type=EVENT_STREAM, end=False))
        await go.wait()
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(ONE), ONE))
        await reader.read()

    async with answer_of(slow) as (answer, _), asyncio.TaskGroup() as tasks:

        async def listen() -> None:
            whose.set("mine")
            go.set()
            await follow(answer, lambda *_: seen.append(whose.get()))

        tasks.create_task(listen())
    assert seen == ["mine"]


async def test_a_stream_that_breaks_off_is_interrupted_after_what_has_come() -> None:
    found: list[bytes] = []

    async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ask(reader)
        writer.write(chunked(ONE, content_type=EVENT_STREAM, end=False))
        await writer.drain()

    async with answer_of(broken) as (answer, _):
        with pytest.raises(Interrupted):
            await follow(answer, lambda _, data: found.append(data))
        assert found == [b"one"]


async def test_a_stream_that_is_closed_meanwhile_ends_with_an_error() -> None:
    stream = answering(chunked(ONE, content_type=EVENT_STREAM, end=False))
    async with answer_of(stream) as (answer, _):

        def take(event: str, data: bytes) -> None:
            answer.close()

        with pytest.raises(Unavailable):
            await follow(answer, take)
