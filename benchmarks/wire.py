"""HTTP for measuring: connections that are kept, whole answers, and nothing else.

Above: `load`, which measures with it, and `floor`, which forwards with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; header names in lower case."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


class Exchange(asyncio.Protocol):
    """One connection; `on_part` gets the body as it comes, for streams that do not end."""

    def __init__(self, on_part: Callable[[bytes], None] | None = None) -> None:
        self._on_part = on_part
        self._answer: asyncio.Future[Answer] | None = None
        self.closed = False

    def send(self, request: bytes) -> asyncio.Future[Answer]:
        """Write a request; its answer."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def close(self) -> None:
        """Drop the connection."""
        self.closed = True
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError("the connection has ended"))
            self._answer.exception()

    def on_message_begin(self) -> None:
        self._headers: dict[bytes, bytes] = {}
        self._parts: list[bytes] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        if self._on_part is not None:
            self._on_part(body)
        else:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if not self._parser.should_keep_alive():
            self.closed = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Answer(status, self._headers, b"".join(self._parts)))


class Pool:
    """Exchanges with one origin, each on a connection that is free."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._free: list[Exchange] = []

    async def exchange(self, request: bytes) -> Answer:
        """Send a request; its whole answer."""
        connection = self._take() or await self.connect()
        answer = await connection.send(request)
        if not connection.closed:
            self._free.append(connection)
        return answer

    async def connect(self, on_part: Callable[[bytes], None] | None = None) -> Exchange:
        """A connection of the caller's own."""
        loop = asyncio.get_running_loop()
        _, exchange = await loop.create_connection(
            lambda: Exchange(on_part), self._host, self._port
        )
        return exchange

    def close(self) -> None:
        """Drop every free connection."""
        for connection in self._free:
            connection.close()

    def _take(self) -> Exchange | None:
        while self._free:
            if not (connection := self._free.pop()).closed:
                return connection
        return None


def request_head(method: str, url: str, headers: Mapping[str, str]) -> bytes:
    """All of a request but its body's length and the body; see `with_body`."""
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    lines = [f"{method} {target} HTTP/1.1", f"host: {parts.netloc}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n"


def with_body(head: bytes, body: bytes) -> bytes:
    """The whole request."""
    return head + b"content-length: %d\r\n\r\n" % len(body) + body
