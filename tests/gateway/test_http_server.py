"""The HTTP/1.1 server beneath the gateway, spoken to byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from mcpcp.errors import McpcpError
from mcpcp.frontends import connection as http
from mcpcp.frontends.requests import EventStream, Reply, Request
from mcpcp.frontends.serving import HttpServer

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Both loops that we run in: they differ in what a closed transport lets one do."""
    return "asyncio", {"use_uvloop": request.param == "uvloop" and sys.platform != "win32"}


PATIENCE = 90.0
"""Seconds after which something hangs: how busy the machine is must not matter."""
Application = Callable[[Request, Reply], Awaitable[None]]
MEGABYTE = 2**20


async def echo(request: Request, reply: Reply) -> None:
    """Gives back what it was asked, and the body."""
    body = await request.body()
    reply.text(200, f"{request.method} {request.path} {request.query} {body.decode()}".strip())


async def header_or_none(request: Request, reply: Reply) -> None:
    """Reads the body, then says what the origin is."""
    await request.body()
    reply.text(200, str(request.header(b"origin")))


class Client:
    """A connection that is written to as a test says."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def answer(self) -> tuple[bytes, bytes]:
        """Status line and body of an answer whose length is said."""
        head = (await self.head()).lower()
        length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
        async with asyncio.timeout(PATIENCE):
            return head.split(b"\r\n")[0], await self.reader.readexactly(length)

    async def rest(self) -> bytes:
        """All that comes until the server closes."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read()


class Served:
    """A server that runs, and its port."""

    def __init__(self, server: HttpServer, port: int) -> None:
        self.server, self.port = server, port

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=64 * MEGABYTE)
        try:
            yield Client(reader, writer)
        finally:
            writer.close()
            try:
                async with asyncio.timeout(1):  # for what it still has to say, if anybody listens
                    await writer.wait_closed()
            except (ConnectionError, TimeoutError):
                writer.transport.abort()


@asynccontextmanager
async def serving(application: Application) -> AsyncIterator[Served]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        async with asyncio.TaskGroup() as tasks:
            server = HttpServer(application, tasks)
            async with server.listening(listener):
                yield Served(server, port)


def get(path: str = "/", *headers: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: x", *headers, "", ""]
    return "\r\n".join(lines).encode()


def post(body: bytes, *headers: str) -> bytes:
    lines = ["POST /p HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


async def test_requests_on_one_connection_are_answered_in_their_order() -> None:
    async with serving(echo) as served, served.client() as client:
        await client.say(get("/one?a=b") + post(b"two") + get("/thr%65e/"))
        assert (await client.answer())[1] == b"GET /one a=b\n"
        assert (await client.answer())[1] == b"POST /p  two\n"
        assert (await client.answer())[1] == b"GET /three\n"
        await client.say(get("/four"))
        assert (await client.answer())[1] == b"GET /four\n"


async def test_a_head_that_repeats_is_another_request_each_time() -> None:
    """However they are cut: together, apart, and with others in between."""
    bodies = [b"one", b"two", b"eleven of it", b"", b"5" * 5000]
    async with serving(echo) as served, served.client() as client:
        for body in bodies:
            await client.say(post(body))
            assert (await client.answer())[1] == (b"POST /p  " + body).strip() + b"\n"
        await client.say(b"".join(post(body) for body in bodies[:3]) + post(b"half")[:-2])
        for body in bodies[:3]:
            assert (await client.answer())[1] == b"POST /p  %b\n" % body
        await client.say(b"lf" + get("/other"))
        assert (await client.answer())[1] == b"POST /p  half\n"
        assert (await client.answer())[1] == b"GET /other\n"
        await client.say(post(b"again"))
        assert (await client.answer())[1] == b"POST /p  again\n"


async def test_a_request_like_the_last_one_is_taken_while_that_is_answered() -> None:
    go = asyncio.Event()
    began = asyncio.Queue[bytes]()

    async def slow(request: Request, reply: Reply) -> None:
        body = await request.body()
        began.put_nowait(body)
        await go.wait()
        reply.send(200, body)

    async with serving(slow) as served, served.client() as client:
        await client.say(post(b"one"))
        assert await began.get() == b"one"
        for body in (b"two", b"three"):
            await client.say(post(body))
        go.set()
        for body in (b"one", b"two", b"three"):
            assert (await client.answer())[1] == body


@pytest.mark.parametrize("size", [10, 200_000])
async def test_an_answer_may_be_in_several_pieces(size: int) -> None:
    text = b"x" * size

    async def application(request: Request, reply: Reply) -> None:
        reply.json(200, (b"[", memoryview(text)[:-1], b"]"))

    async with serving(application) as served, served.client() as client:
        await client.say(get())
        assert (await client.answer())[1] == b"[" + text[:-1] + b"]"
        await client.say(get().replace(b"GET", b"HEAD"))
        assert b"content-length: %d\r\n" % (size + 1) in await client.head()
        await client.say(get())
        assert (await client.answer())[1] == b"[" + text[:-1] + b"]"


@pytest.mark.parametrize("size", [1, 7, 50])
async def test_a_request_may_come_in_any_pieces(size: int) -> None:
    raw = post(b"hello")
    async with serving(echo) as served, served.client() as client:
        for start in range(0, len(raw), size):
            await client.say(raw[start : start + size])
            await asyncio.sleep(0)
        assert (await client.answer())[1] == b"POST /p  hello\n"


async def test_a_body_in_chunks_is_one_body() -> None:
    async with serving(echo) as served, served.client() as client:
        await client.say(b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.say(b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n")
        assert (await client.answer())[1] == b"POST /c  abcde\n"


async def test_trailers_are_read_by_nobody_and_bounded() -> None:
    head = b"POST /t HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n"
    async with serving(header_or_none) as served:
        async with served.client() as client:
            await client.say(head + b"Origin: elsewhere\r\n\r\n")
            assert (await client.answer())[1] == b"None\n"
        async with served.client() as client:
            await client.say(head)
            with contextlib.suppress(ConnectionError):  # it does not read to the end
                for number in range(1000):
                    await client.say(b"X-%d: " % number + b"a" * 1000 + b"\r\n")
                    await asyncio.sleep(0)
                await client.say(b"\r\n")
            with contextlib.suppress(ConnectionError):
                assert b" 200 " not in await client.rest()


async def test_a_client_that_waits_for_leave_to_send_its_body_gets_it() -> None:
    async with serving(echo) as served, served.client() as client:
        head, _, body = post(b"later", "Expect: 100-continue").partition(b"\r\n\r\n")
        await client.say(head + b"\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 100 ")
        await client.say(body)
        assert (await client.answer())[1] == b"POST /p  later\n"


async def test_a_head_request_is_answered_without_its_body() -> None:
    async with serving(echo) as served, served.client() as client:
        await client.say(get("/h").replace(b"GET", b"HEAD") + get("/next"))
        assert b"content-length: 8\r\n" in await client.head()
        assert (await client.answer())[1] == b"GET /next\n"


@pytest.mark.parametrize(
    "request_", [get("/x", "Connection: close"), b"GET /x HTTP/1.0\r\nHost: x\r\n\r\n"]
)
async def test_the_connection_ends_where_the_client_wants_that(request_: bytes) -> None:
    async with serving(echo) as served, served.client() as client:
        await client.say(request_)
        answer = await client.rest()
        assert answer.endswith(b"GET /x\n")
        assert b"connection: close\r\n" in answer


@pytest.mark.parametrize(
    "garbage",
    [b"\x16\x03\x01\x02\x00\x01", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n"],
)
async def test_what_is_no_http_is_answered_400_and_the_connection_ends(garbage: bytes) -> None:
    async with serving(echo) as served, served.client() as client:
        await client.say(garbage)
        answer = await client.rest()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.endswith(b"\r\n\r\nmalformed HTTP request\n")


async def test_a_request_before_garbage_is_answered_and_is_the_last() -> None:
    async with serving(echo) as served, served.client() as client:
        await client.say(get("/first") + b"\x00garbage\r\n\r\n" + get("/never"))
        answer = await client.rest()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"\r\n\r\nGET /first\n")


async def test_a_head_that_is_too_long_is_refused() -> None:
    async with serving(echo) as served, served.client() as client:
        client.writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * MEGABYTE)
        with contextlib.suppress(ConnectionError):  # it does not read to the end
            answer = await client.rest()
            assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")


async def test_a_head_that_does_not_come_in_time_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "HEAD_TIMEOUT", 0.2)
    async with serving(echo) as served, served.client() as silent, served.client() as slow:
        with contextlib.suppress(ConnectionError):  # where what it said comes to a closed door
            await slow.say(b"GET / HT")
            assert await slow.rest() == b""
        assert await silent.rest() == b""


async def test_an_idle_connection_is_kept_and_ends_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "KEEP_ALIVE", 0.2)
    async with serving(echo) as served, served.client() as client:
        await client.say(get("/a"))
        assert (await client.answer())[1] == b"GET /a\n"
        assert await client.rest() == b""


async def test_an_unwanted_body_is_passed_over_and_the_connection_lives_on() -> None:
    async def refuse(request: Request, reply: Reply) -> None:
        if request.method == "GET":
            await echo(request, reply)
        else:
            reply.text(401, "no")

    async with serving(refuse) as served, served.client() as client:
        raw = post(b"x" * (2 * MEGABYTE))
        await client.say(raw[:1000])
        assert (await client.answer())[0] == b"http/1.1 401 unauthorized"
        await client.say(raw[1000:] + get("/after"))
        assert (await client.answer())[1] == b"GET /after\n"


async def test_a_body_is_held_back_until_somebody_wants_it() -> None:
    go = asyncio.Event()
    held: list[int] = []

    async def late(request: Request, reply: Reply) -> None:
        await go.wait()
        held.append(request.size)
        reply.text(200, str(len(await request.body())))

    async with serving(late) as served, served.client() as client:
        sending = asyncio.ensure_future(client.say(post(b"x" * (3 * MEGABYTE))))
        await asyncio.wait([sending], timeout=0.3)  # as much as goes in: a chance to fail, no more
        go.set()
        assert (await client.answer())[1] == b"%d\n" % (3 * MEGABYTE)
        await sending
    assert held[0] < MEGABYTE


async def test_a_body_past_every_bound_is_read_no_further() -> None:
    ended = asyncio.Event()

    async def take(request: Request, reply: Reply) -> None:
        with pytest.raises(McpcpError):
            await request.body()
        ended.set()

    async with serving(take) as served, served.client() as client:
        await client.say(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"%x\r\n%b\r\n" % (MEGABYTE, b"x" * MEGABYTE)
        with pytest.raises(ConnectionError):
            for _ in range(100):
                await client.say(chunk)
        async with asyncio.timeout(PATIENCE):
            await ended.wait()


async def test_an_application_that_fails_is_a_500_and_the_next_request_is_served(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(request: Request, reply: Reply) -> None:
        if request.path == "/bad":
            raise RuntimeError("by design")
        await echo(request, reply)

    async with serving(broken) as served, served.client() as client:
        await client.say(get("/bad") + get("/good"))
        assert (await client.answer())[0] == b"http/1.1 500 internal server error"
        assert (await client.answer())[1] == b"GET /good\n"
    assert "by design" in caplog.text


async def test_a_stream_that_breaks_is_not_ended_as_if_it_were_whole(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def breaking(request: Request, reply: Reply) -> None:
        reply.start_stream()
        await reply.stream(b"data: 1\n\n")
        raise RuntimeError("by design")

    async with serving(breaking) as served, served.client() as client:
        await client.say(get())
        answer = await client.rest()
        assert answer.endswith(b"9\r\ndata: 1\n\n\r\n")
    assert "by design" in caplog.text


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_a_stream_comes_in_chunks_or_until_the_end_of_the_connection(version: str) -> None:
    async def stream(request: Request, reply: Reply) -> None:
        events = EventStream()
        for event in (b"data: 1\n\n", b"data: 2\n\n"):
            events.push(event)
        events.end()
        reply.start_stream([(b"x-own", b"1")])
        await events.serve(request, reply)

    async with serving(stream) as served, served.client() as client:
        await client.say(
            get("/", "Connection: close").replace(b"HTTP/1.1", f"HTTP/{version}".encode())
        )
        head, _, body = (await client.rest()).partition(b"\r\n\r\n")
        assert b"content-type: text/event-stream\r\n" in head
        assert b"x-own: 1" in head
        chunked = b"9\r\ndata: 1\n\n\r\n9\r\ndata: 2\n\n\r\n0\r\n\r\n"
        assert body == (chunked if version == "1.1" else b"data: 1\n\ndata: 2\n\n")


async def test_a_client_that_leaves_is_noticed_while_its_request_is_served() -> None:
    left = asyncio.Event()

    async def wait(request: Request, reply: Reply) -> None:
        await request.gone()
        left.set()

    async with serving(wait) as served:
        async with served.client() as client:
            await client.say(get())
        async with asyncio.timeout(PATIENCE):
            await left.wait()


async def test_what_was_asked_before_the_client_left_is_served_all_the_same() -> None:
    first, go, served_both = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def note(request: Request, reply: Reply) -> None:
        if request.path == "/last":
            served_both.set()
            return
        first.set()
        await go.wait()
        reply.text(200, "ok")

    async with serving(note) as served:
        async with served.client() as client:
            await client.say(get("/first") + get("/last"))
            async with asyncio.timeout(PATIENCE):
                await first.wait()
            client.writer.transport.abort()
        go.set()
        async with asyncio.timeout(PATIENCE):
            await served_both.wait()


async def test_draining_answers_what_was_asked_and_ends_what_idles() -> None:
    asked, go = asyncio.Event(), asyncio.Event()

    async def slow(request: Request, reply: Reply) -> None:
        if request.path == "/slow":
            asked.set()
            await go.wait()
        await echo(request, reply)

    async with serving(slow) as served, served.client() as idle, served.client() as busy:
        await idle.say(get("/quick"))
        await idle.answer()
        await busy.say(get("/slow"))
        async with asyncio.timeout(PATIENCE):
            await asked.wait()
            draining = asyncio.ensure_future(served.server.drain())
            assert await idle.rest() == b""
            assert not draining.done()
            go.set()
            assert (await busy.rest()).endswith(b"GET /slow\n")
            await draining
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", served.port)


async def test_another_protocol_is_not_spoken_and_the_request_served_as_it_is() -> None:
    async with serving(echo) as served, served.client() as client:
        await client.say(get("/u", "Connection: Upgrade", "Upgrade: websocket") + b"\x81\x05hello")
        answer = await client.rest()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"GET /u\n")


@pytest.mark.parametrize("name", ["Authorization", "Host", "Mcp-Session-Id", "Mcp-Param-X"])
async def test_a_header_that_may_come_but_once_is_worth_nothing_twice(name: str) -> None:
    seen: list[str | None] = []

    async def look(request: Request, reply: Reply) -> None:
        seen.append(request.header(name.lower().encode()))
        reply.text(200, "ok")

    async with serving(look) as served, served.client() as client:
        await client.say(get("/", f"{name}: a", f"{name}: b"))
        await client.answer()
    assert seen == ["\0ambiguous"]


async def in_two_ways(request: Request, reply: Reply) -> None:
    """An answer of known length, or a stream of two pieces."""
    if request.path != "/stream":
        reply.text(200, request.path)
        return
    reply.start_stream()
    for piece in (b"one ", b"two"):
        await reply.stream(piece)
    reply.end_stream()


async def test_in_a_crowd_too_each_answer_comes_in_its_turn_and_before_its_connection_ends() -> (
    None
):
    asked = b"".join((get("/a"), get("/stream"), get("/b"), get("/c", "Connection: close")))

    async def client(served: Served) -> bytes:
        async with served.client() as client:
            await client.say(asked)
            return await client.rest()

    async with serving(in_two_ways) as served, asyncio.TaskGroup() as tasks:
        clients = [tasks.create_task(client(served)) for _ in range(50)]
        for each in clients:
            heard = await each
            places = [heard.index(part) for part in (b"/a\n", b"one ", b"two", b"/b\n", b"/c\n")]
            assert places == sorted(places)
            assert heard.count(b"HTTP/1.1 200 OK") == 4
