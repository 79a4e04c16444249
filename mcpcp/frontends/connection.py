"""One HTTP/1.1 connection of a client: its requests, as they come, served one after the other.

Above: `serving` accepts connections and ends those that are overdue. Below: httptools parses, and
`requests` has what the application sees. A general-purpose server between the two costs as much as
everything that the gateway itself does for a call.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final, Protocol, cast

import httptools

from mcpcp.bursts import burst
from mcpcp.frontends.heads import Head
from mcpcp.frontends.requests import BODY_TIMEOUT, MOST_DISCARDED, Reply, Request
from mcpcp.knownheads import KnownHead, known

logger = logging.getLogger(__name__)

HEAD_TIMEOUT: Final = 10.0
"""Seconds from accepting a connection, or from a request's first byte, to the end of its head."""
LONGEST_HEAD: Final = 64 * 1024
KEEP_ALIVE: Final = 75.0
"""Seconds that a connection may idle between two requests."""
_AMBIGUOUS: Final = b"\0ambiguous"
_SINGLE: Final = frozenset(
    {b"authorization", b"host", b"origin", b"mcp-session-id"}
    | {b"mcp-protocol-version", b"mcp-method", b"mcp-name"}
)
_MALFORMED: Final = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: 23\r\nconnection: close\r\n\r\nmalformed HTTP request\n"
)

Application = Callable[[Request, Reply], Awaitable[None]]


class Owner(Protocol):
    """Who has accepted a connection."""

    application: Application

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run what serves a connection."""

    def opened(self, connection: HttpConnection) -> None:
        """The connection is open."""

    def ended(self, connection: HttpConnection) -> None:
        """The connection has ended."""


class HttpConnection(asyncio.Protocol):
    """A connection without a timer: `deadline` is the loop time at which its owner cuts it off."""

    def __init__(self, owner: Owner) -> None:
        self.deadline = math.inf
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._burst = burst()
        self._parser = httptools.HttpRequestParser(self)
        self._queue: deque[Request] = deque()
        self._coming: Request | None = None  # whose body is on its way
        self._head: Head | None = None  # that was read last
        self._known: KnownHead[Head] | None = None
        self._in_head = self._head_is_due = False
        self._begun = 0  # requests in what came last
        self._head_size = self._framing_size = 0
        self._had_body = False
        self._held = False
        self._last = False
        self._task: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._gone = asyncio.Event()
        self._transport: asyncio.Transport

    # What serves it.

    async def _serve(self) -> None:
        """Answer one request after the other, to the last."""
        try:
            while (request := await self._next()) is not None:
                if not await self._answer(request):
                    break
        except Exception:  # the task group is everybody's
            logger.exception("a connection is given up")
        finally:
            self._close()

    async def _answer(self, request: Request) -> bool:
        """Have one request answered; whether there can be another after it."""
        reply = Reply(self, request)
        try:
            await self._owner.application(request, reply)
        except Exception:
            logger.exception("%s %s failed", request.method, request.path)
        if not reply.whole:
            reply.complete()
        if not request.complete:
            await self._pass_over(request)
        if self._writable is not None:
            await self.drain()
        return request.head.keep_alive and reply.whole

    async def _next(self) -> Request | None:
        """The next request, its head; None where there will be none."""
        while not self._queue:
            if self._last:
                return None
            if not self._in_head:
                self.deadline = self._loop.time() + KEEP_ALIVE
            self._waiter = self._loop.create_future()
            await self._waiter
        request = self._queue.popleft()
        self._waiter = None
        self.resume()
        return request

    async def _pass_over(self, request: Request) -> None:
        """Let the rest of a body come that nobody wants: a client that is cut off while it still
        sends often never sees the answer."""
        self.deadline = self._loop.time() + BODY_TIMEOUT
        await request.discard()
        self.deadline = math.inf

    # What its requests and replies ask of it.

    @property
    def ending(self) -> bool:
        """Whether no more requests are taken."""
        return self._last

    def write_whole(self, data: bytes) -> None:
        """Send a whole answer; what can't be sent any more is dropped."""
        if not self._transport.is_closing():
            self._burst.write(self._transport, data)

    def write(self, data: bytes) -> None:
        """Send a part of one."""
        self._burst.flush()
        if not self._transport.is_closing():
            self._transport.write(data)

    def write_pieces(self, pieces: Iterable[bytes | memoryview]) -> None:
        """Send a whole one, which is long, in several pieces."""
        self._burst.flush()
        if not self._transport.is_closing():
            self._transport.writelines(pieces)

    def _close(self) -> None:
        self._burst.flush()
        self._transport.close()

    async def drain(self) -> None:
        """Wait while the client does not read."""
        while self._writable is not None:
            await self._writable

    async def gone(self) -> None:
        """Wait until the client has left."""
        await self._gone.wait()

    def resume(self) -> None:
        """Read on, if there is still something to read from."""
        if self._held and not self._transport.is_closing():
            self._held = False
            self._transport.resume_reading()

    # What its owner asks of it.

    def finish(self) -> None:
        """Take no more requests, and end once those that came are answered."""
        self._last = True
        if self._task is None:
            self._close()
        self._wake()

    def cut(self) -> None:
        """End now."""
        self._transport.abort()
        if self._task is not None:
            self._task.cancel()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._owner.opened(self)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        self._burst.heard += 1
        if self._coming is None:
            if self._last:
                return  # what follows the last request is nobody's
            known_head = None if self._in_head else self._known
            if known_head is not None and (begin := known_head.body_at(data, len(data))):
                self._take_whole(known_head.head, data[begin:])
                return
        self._read(data)

    def _take_whole(self, head: Head, body: bytes) -> None:
        """Take a request that came in one piece, with the head of the one before it."""
        request = Request(head, self)
        request.feed(body)
        request.end()
        self._take(request)

    def _read(self, data: bytes) -> None:
        in_body = self._coming is not None
        fresh = not (in_body or self._in_head)
        self._begun = 0
        self._had_body = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._last = True  # we speak nothing else: it is served as it is
        except httptools.HttpParserError:
            self._refuse()
            return
        if self._in_head:
            self._bound_head(0 if in_body else len(data))
        elif in_body:
            self._bound_framing(len(data))
        elif fresh and self._begun == 1 and self._coming is None and self._head is not None:
            length = self._head.headers.get(b"content-length")
            self._known = known(self._head, length, data, len(data))

    def connection_lost(self, exc: Exception | None) -> None:
        self._last = True
        if self._coming is not None:
            self._coming.break_off()
        self.resume_writing()
        self._gone.set()
        self._wake()
        self._owner.ended(self)

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._writable is not None:
            self._writable.set_result(None)
            self._writable = None

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._begun += 1
        self._in_head = True
        self._url = b""
        self._headers: dict[bytes, bytes] = {}

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._coming is not None:
            return  # a trailer: nobody reads those
        name = name.lower()
        if name in self._headers and (name in _SINGLE or name.startswith(b"mcp-param-")):
            value = _AMBIGUOUS  # readers of the first and of the last would disagree
        self._headers[name] = value

    def on_headers_complete(self) -> None:
        self._in_head = False
        parser = self._parser
        self._head = Head(
            parser.get_method(),
            self._url,
            self._headers,
            keep_alive=parser.should_keep_alive(),
            chunks=parser.get_http_version() != "1.0",
        )
        self._coming = request = Request(self._head, self)
        self._take(request)

    def _take(self, request: Request) -> None:
        """Have a request answered in its turn."""
        self._head_is_due = False
        self._head_size = 0
        self.deadline = math.inf
        if self._queue or self._is_busy():
            self._hold()
        self._queue.append(request)
        if self._task is None:
            self._task = self._owner.start(self._serve())
        self._wake()

    def on_body(self, body: bytes) -> None:
        request = self._coming
        if request is None:
            return
        self._had_body = True
        request.feed(body)
        if request.size > MOST_DISCARDED:
            self._transport.abort()
        elif request.is_crowded:
            self._hold()

    def on_message_complete(self) -> None:
        if self._coming is not None:
            self._coming.end()
            self._coming = None

    # Bounds.

    def _expect_head(self) -> None:
        self._head_is_due = True
        self.deadline = self._loop.time() + HEAD_TIMEOUT

    def _bound_head(self, size: int) -> None:
        """A head that is not whole yet: `size` more bytes of it have come."""
        self._head_size += size
        if self._head_size > LONGEST_HEAD:
            self._refuse()
        elif not self._head_is_due:
            self._expect_head()

    def _bound_framing(self, size: int) -> None:
        """What comes with a body and is none of it: the sizes of its chunks, and trailers."""
        self._framing_size = 0 if self._had_body else self._framing_size + size
        if self._framing_size > LONGEST_HEAD:
            self._refuse()

    def _refuse(self) -> None:
        """Answer what is no HTTP; an answer that is under way is finished, and is the last."""
        self._last = True
        if self._coming is not None:
            self._coming.break_off()
            self._coming = None
        if not self._queue and not self._is_busy():
            self.write(_MALFORMED)
            self._close()

    def _is_busy(self) -> bool:
        return self._task is not None and (self._waiter is None or self._waiter.done())

    def _hold(self) -> None:
        if not self._held:
            self._held = True
            self._transport.pause_reading()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
