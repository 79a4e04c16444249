"""Raw servers: asyncio streams that answer whatever a test writes down, HTTP or not."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

PATIENCE = 90.0
"""Seconds after which something hangs: how busy the machine is must not matter."""

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Asked:
    """One request as it arrived."""

    line: str
    headers: dict[str, str]
    body: bytes


class Server:
    """Counts its connections; `url` is where it is."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.connections = 0
        self.open = 0
        self.changed = asyncio.Condition()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            await self._handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            async with self.changed:
                self.open -= 1
                self.changed.notify_all()

    async def all_closed(self) -> None:
        async with asyncio.timeout(PATIENCE), self.changed:
            await self.changed.wait_for(lambda: self.open == 0)


@asynccontextmanager
async def serving(
    handler: Handler,
    host: str = "127.0.0.1",
    port: int = 0,
    secure: ssl.SSLContext | None = None,
) -> AsyncIterator[Server]:
    """The handler at a port, a free one by default; none of its connections is left at the end."""
    server = Server(handler)
    listener = await asyncio.start_server(server.serve, host, port, limit=2**27, ssl=secure)
    host, port = listener.sockets[0].getsockname()[:2]
    server.url = f"http{'s' if secure else ''}://{host}:{port}/mcp"
    try:
        yield server
        await server.all_closed()
    finally:
        listener.close()


async def ask(reader: asyncio.StreamReader) -> Asked | None:
    """The next request of a connection, None at its end."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    line, *rest = head.rstrip().split("\r\n")
    headers = {k.lower(): v.strip() for k, _, v in (row.partition(":") for row in rest)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Asked(line, headers, body)


def whole(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    """An answer with its length."""
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{headers}"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def chunked(*parts: bytes, content_type: str = "application/json", end: bool = True) -> bytes:
    """An answer in chunks."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n"
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return head.encode() + chunks + (b"0\r\n\r\n" if end else b"")


def answering(*answers: bytes) -> Handler:
    """Each request gets the next answer, the last one from then on."""
    left = list(answers)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await ask(reader) is not None:
            writer.write(left.pop(0) if len(left) > 1 else left[0])
            await writer.drain()

    return handle
