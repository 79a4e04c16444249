"""One HTTP request and its reply, as thin as ASGI allows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final
from urllib.parse import parse_qs

from mcpcp import requestid
from mcpcp.errors import McpcpError
from mcpcp.jsonrpc import INVALID_REQUEST, Message, RpcError, encode

LARGEST_BODY: Final = 4 * 1024 * 1024
MOST_DISCARDED: Final = 32 * 1024 * 1024
"""A body up to this size is read, though not kept, before it is refused: a client that is cut off
while it still sends often never sees the answer."""
BODY_TIMEOUT: Final = 30.0
PING_EVERY: Final = 15.0
WHOLE: Final = "mcpcp.whole"
"""The extension of a scope whose body has come already: there is nothing to set a deadline for."""
_SLOW_READER: Final = 1024
_SLOW_READER_BYTES: Final = 32 * 1024 * 1024
_JSON: Final = b"application/json"
_SSE_HEADERS: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)
_SINGLE: Final = frozenset(
    {b"authorization", b"host", b"origin", b"mcp-session-id"}
    | {b"mcp-protocol-version", b"mcp-method", b"mcp-name"}
)


class TooLarge(McpcpError):
    """A request's body is larger than we take."""


class Request:
    """The parts of an ASGI scope that we look at."""

    __slots__ = ("_headers", "_receive", "_whole", "method", "path", "query")

    def __init__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    ) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"].rstrip("/") or "/"
        self.query: bytes = scope["query_string"]
        self._receive = receive
        self._whole: bool = WHOLE in scope.get("extensions", ())
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in headers and (name in _SINGLE or name.startswith(b"mcp-param-")):
                value = b"\0ambiguous"  # readers of the first and of the last would disagree
            headers[name] = value
        self._headers = headers

    def header(self, name: bytes) -> str | None:
        """A header's value without the white space around it; `name` in lower case."""
        value = self._headers.get(name)
        return None if value is None else value.decode("latin-1").strip()

    @property
    def bearer(self) -> str | None:
        """The token of the Authorization header; an empty one where the header holds none."""
        value = self.header(b"authorization")
        if value is None:
            return None
        scheme, _, token = value.partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""

    def parameter(self, name: str) -> str | None:
        """A parameter of the query."""
        values = parse_qs(self.query.decode("latin-1")).get(name)
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
        length = self.header(b"content-length")
        if length is not None and length.isdigit() and int(length) > MOST_DISCARDED:
            raise TooLarge(f"the body is larger than {LARGEST_BODY} bytes")
        if self._whole:
            return await self._whole_body()
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                return await self._whole_body()
        except TimeoutError:
            raise RpcError(INVALID_REQUEST, "the body did not come in time") from None

    async def gone(self) -> None:
        """Return when the client has closed the connection."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _whole_body(self) -> bytes:
        part = await self._receive()
        body = self._complete(part)
        if not part.get("more_body"):
            return body
        parts, size = [body], len(body)
        while part.get("more_body") and size <= MOST_DISCARDED:
            part = await self._receive()
            parts.append(self._complete(part))
            size += len(parts[-1])
            if size > LARGEST_BODY:
                parts.clear()
        if size > LARGEST_BODY:
            raise TooLarge(f"the body is larger than {LARGEST_BODY} bytes")
        return b"".join(parts)

    def _complete(self, part: MutableMapping[str, Any]) -> bytes:
        if part["type"] == "http.disconnect":
            raise RpcError(INVALID_REQUEST, "the body broke off")
        body: bytes = part.get("body", b"")
        return body


class Reply:
    """The way back: a whole answer, or the start of an event stream."""

    __slots__ = ("_request_id", "_send")

    def __init__(
        self, send: Callable[[MutableMapping[str, Any]], Awaitable[None]], request_id: str
    ) -> None:
        self._send = send
        self._request_id = (requestid.HEADER, request_id.encode())

    async def send(
        self,
        status: int,
        body: bytes,
        content_type: bytes = _JSON,
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        """A whole answer."""
        length = str(len(body)).encode()
        head = [
            (b"content-type", content_type),
            (b"content-length", length),
            self._request_id,
            *headers,
        ]
        await self._send({"type": "http.response.start", "status": status, "headers": head})
        await self._send({"type": "http.response.body", "body": body})

    async def json(
        self, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        """A JSON answer."""
        await self.send(status, body, _JSON, headers)

    async def text(
        self, status: int, text: str, headers: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        """A plain text for a person."""
        await self.send(status, text.encode() + b"\n", b"text/plain; charset=utf-8", headers)

    async def start_stream(self, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Begin an event stream."""
        head = [*_SSE_HEADERS, self._request_id, *headers]
        await self._send({"type": "http.response.start", "status": 200, "headers": head})

    async def stream(self, data: bytes) -> None:
        """Send a piece of the stream."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end_stream(self) -> None:
        """End the stream."""
        await self._send({"type": "http.response.body", "body": b""})


def event(message: Message) -> bytes:
    """A message as a server-sent event."""
    return b"event: message\ndata: " + encode(message) + b"\n\n"


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
        await reply.end_stream()

    async def serve(self, request: Request, reply: Reply) -> None:
        """Write events until `end` or until the client has gone."""
        async with asyncio.TaskGroup() as tasks:
            leaving = tasks.create_task(request.gone())
            leaving.add_done_callback(lambda _: self.end())
            await self.write(reply)
            leaving.cancel()
