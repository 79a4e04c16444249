"""One HTTP request and its reply: what the application sees of a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus
from typing import Final, Protocol
from urllib.parse import parse_qs

from mcpcp.errors import McpcpError
from mcpcp.frontends.heads import Head
from mcpcp.jsonrpc import INVALID_REQUEST, Message, RpcError
from mcpcp.verbatim import pieces

LARGEST_BODY: Final = 4 * 1024 * 1024
MOST_DISCARDED: Final = 32 * 1024 * 1024
"""A body up to this size is read, though not kept, before it is refused: a client that is cut off
while it still sends often never sees the answer."""
BODY_TIMEOUT: Final = 30.0
PING_EVERY: Final = 15.0
_UNASKED: Final = 64 * 1024
"""Bytes of a body that are taken before somebody asks for it."""
_SLOW_READER: Final = 1024
_SLOW_READER_BYTES: Final = 32 * 1024 * 1024
_COPIED: Final = 16 * 1024
"""Bytes of an answer up to which one piece is sent sooner than several are."""
_JSON: Final = b"application/json"
_SSE_HEADERS: Final = (
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)

Headers = Iterable[tuple[bytes, bytes]]
Body = bytes | tuple[bytes | memoryview, ...]
"""In one piece, or in several that are sent without being copied together."""


class TooLarge(McpcpError):
    """A request's body is larger than we take."""


class Wire(Protocol):
    """The connection beneath a request."""

    @property
    def ending(self) -> bool:
        """Whether this is its last request."""

    def write(self, data: bytes) -> None:
        """Send a part of an answer; what can't be sent any more is dropped."""

    def write_whole(self, data: bytes) -> None:
        """Send a whole answer, maybe in a moment, with those of others."""

    def write_pieces(self, pieces: Iterable[bytes | memoryview]) -> None:
        """Send a whole answer in several pieces."""

    async def drain(self) -> None:
        """Wait while the client does not read."""

    async def gone(self) -> None:
        """Wait until the client has left."""

    def resume(self) -> None:
        """Read on, if that was stopped."""


class Request:
    """A request's head, and its body as it comes: the connection feeds it."""

    __slots__ = (
        "_broken",
        "_parts",
        "_wanted",
        "_whole",
        "_wire",
        "bearer",
        "complete",
        "head",
        "method",
        "path",
        "query",
        "size",
    )

    def __init__(self, head: Head, wire: Wire) -> None:
        self.head = head
        self.method = head.method
        self.path = head.path
        self.query = head.query
        self.bearer = head.bearer
        self.complete = False
        self.size = 0
        self._wire = wire
        self._parts: list[bytes] = []
        self._wanted = self._broken = False
        self._whole: asyncio.Future[None] | None = None

    def raw(self, name: bytes) -> bytes | None:
        """A header's value as it came; `name` in lower case."""
        return self.head.headers.get(name)

    def header(self, name: bytes) -> str | None:
        """A header's value without the white space around it; `name` in lower case."""
        return self.head.text(name)

    def headers_from(self, prefix: bytes) -> dict[str, str]:
        """The headers whose lower-case names begin with `prefix`."""
        found = {n: v for n, v in self.head.headers.items() if n.startswith(prefix)}
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in found.items()}

    def parameter(self, name: str) -> str | None:
        """A parameter of the query."""
        values = parse_qs(self.query).get(name)
        return values[0] if values else None

    def accepts(self, media_type: str) -> bool:
        """Whether the client takes an answer of `media_type`."""
        accept = self.header(b"accept")
        if accept is None:
            return True
        kind = media_type.split("/")[0]
        return any(wanted in accept for wanted in (media_type, f"{kind}/*", "*/*"))

    async def body(self) -> bytes:
        """The whole body; TooLarge past LARGEST_BODY, RpcError when it stalls or breaks off."""
        if not self.complete:
            await self._come()
        if self.size > LARGEST_BODY:
            raise TooLarge(f"the body is larger than {LARGEST_BODY} bytes")
        if self._broken:
            raise RpcError(INVALID_REQUEST, "the body broke off")
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    async def gone(self) -> None:
        """Return when the client has closed the connection."""
        await self._wire.gone()

    async def _come(self) -> None:
        length = self.header(b"content-length")
        if length is not None and length.isdigit() and int(length) > MOST_DISCARDED:
            raise TooLarge(f"the body is larger than {LARGEST_BODY} bytes")
        if (self.header(b"expect") or "").lower() == "100-continue":
            self._wire.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                await self._wait()
        except TimeoutError:
            raise RpcError(INVALID_REQUEST, "the body did not come in time") from None

    async def _wait(self) -> None:
        self._wanted = True
        self._wire.resume()
        self._whole = asyncio.get_running_loop().create_future()
        await self._whole

    # What the connection does with it.

    @property
    def is_crowded(self) -> bool:
        """Whether there is more of a body than is taken before somebody asks for it."""
        return self.size > _UNASKED and not self._wanted

    def feed(self, part: bytes) -> None:
        """A part of the body; of one that is too large, nothing is kept."""
        self.size += len(part)
        if self.size <= LARGEST_BODY:
            self._parts.append(part)
        else:
            self._parts.clear()

    def end(self) -> None:
        """The body is whole, or no more of it will be taken."""
        self.complete = True
        if self._whole is not None and not self._whole.done():
            self._whole.set_result(None)

    def break_off(self) -> None:
        """The rest of the body can't come."""
        self._broken = True
        self.end()

    async def discard(self) -> None:
        """Wait for the rest of a body that nobody wants."""
        if not self.complete:
            self._parts.clear()
            await self._wait()


class Reply:
    """The way back: a whole answer, or an event stream."""

    __slots__ = ("_own", "_request", "_wire", "begun", "whole")

    def __init__(self, wire: Wire, request: Request) -> None:
        self.begun = self.whole = False
        self._wire = wire
        self._request = request
        self._own = b""

    def add_header(self, name: bytes, value: str) -> None:
        """A header of whatever the answer will be."""
        self._own += b"%b: %b\r\n" % (name, value.encode("latin-1"))

    def send(
        self, status: int, body: Body, content_type: bytes = _JSON, headers: Headers = ()
    ) -> None:
        """A whole answer."""
        pieces = (body,) if isinstance(body, bytes) else body
        size = sum(map(len, pieces))
        head = self._head(status, content_type, headers) + b"content-length: %d\r\n\r\n" % size
        if self._request.method == "HEAD":
            self._wire.write_whole(head)
        elif size <= _COPIED:
            self._wire.write_whole(b"".join((head, *pieces)))
        else:
            self._wire.write_pieces((head, *pieces))
        self.whole = True

    def json(self, status: int, body: Body, headers: Headers = ()) -> None:
        """A JSON answer."""
        self.send(status, body, _JSON, headers)

    def text(self, status: int, text: str, headers: Headers = ()) -> None:
        """A plain text for a person."""
        self.send(status, text.encode() + b"\n", b"text/plain; charset=utf-8", headers)

    def start_stream(self, headers: Headers = ()) -> None:
        """Begin an event stream."""
        head = self._head(200, b"text/event-stream", (*_SSE_HEADERS, *headers))
        framing = b"transfer-encoding: chunked\r\n" if self._request.head.chunks else b""
        self._wire.write(b"%b%b\r\n" % (head, framing))

    async def stream(self, data: bytes) -> None:
        """Send a piece of the stream; waits while the client does not read."""
        self._wire.write(b"%x\r\n%b\r\n" % (len(data), data) if self._request.head.chunks else data)
        await self._wire.drain()

    def end_stream(self) -> None:
        """End the stream."""
        if self._request.head.chunks:
            self._wire.write(b"0\r\n\r\n")
        self.whole = self._request.head.chunks

    def complete(self) -> None:
        """See that there is an answer where none was sent; what was begun can't be mended."""
        if not self.begun:
            self.text(500, "internal error: the gateway's log has the details")

    def _head(self, status: int, content_type: bytes, headers: Headers) -> bytes:
        """The head, but for how its body is framed."""
        self.begun = True
        head = _status(status, content_type) + self._own
        if self._wire.ending or not self._request.head.keep_alive:
            head += b"connection: close\r\n"
        for header in headers:
            head += b"%b: %b\r\n" % header
        return head


@lru_cache(maxsize=64)
def _status(status: int, content_type: bytes) -> bytes:
    phrase = HTTPStatus(status).phrase.encode()
    return b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\n" % (status, phrase, content_type)


def event(message: Message) -> bytes:
    """A message as a server-sent event."""
    return b"".join((b"event: message\ndata: ", *pieces(message), b"\n\n"))


class EventStream:
    """A queue of events and the loop that writes them, with pings while there are none.

    A client that does not read loses its stream, not our memory.
    """

    def __init__(self) -> None:
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=_SLOW_READER)
        self._size = 0
        self.closed = False

    def push(self, data: bytes) -> None:
        """Add an event; never waits."""
        if self.closed:
            return
        if self._queue.full() or (self._size and self._size + len(data) > _SLOW_READER_BYTES):
            self.closed = True
            return
        self._queue.put_nowait(data)
        self._size += len(data)

    def end(self) -> None:
        """End the stream after what is queued."""
        if not self.closed and not self._queue.full():
            self._queue.put_nowait(None)
        self.closed = True

    async def write(self, reply: Reply) -> None:
        """Write events until `end`; the stream has been started."""
        while not (self.closed and self._queue.empty()):
            try:
                async with asyncio.timeout(PING_EVERY):
                    data = await self._queue.get()
            except TimeoutError:
                data = b": ping\n\n"
            else:
                self._size -= len(data or b"")
            if data is None:
                break
            await reply.stream(data)
        reply.end_stream()

    async def serve(self, request: Request, reply: Reply) -> None:
        """Write events until `end` or until the client has gone."""
        async with asyncio.TaskGroup() as tasks:
            leaving = tasks.create_task(request.gone())
            leaving.add_done_callback(lambda _: self.end())
            await self.write(reply)
            leaving.cancel()
