"""MCP's stdio framing, one message a line: on our own stdin and stdout, or a relay's socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import shutil
import stat
import sys
import threading
from collections.abc import AsyncIterator
from typing import Final

from mcpcp.errors import TokenError
from mcpcp.frontends.session import DuplexSession
from mcpcp.gateway import Gateway
from mcpcp.jsonrpc import Message, RpcError, decode, encode
from mcpcp.policy import Agent
from mcpcp.verbatim import pieces

logger = logging.getLogger(__name__)

LONGEST_LINE: Final = 64 * 1024 * 1024
HELLO_TIMEOUT: Final = 10.0
_SLOW_READER: Final = 4 * 1024 * 1024
_LOOK_EVERY: Final = 0.1
_FLUSH_TIMEOUT: Final = 60.0
"""Seconds for a disk to take the last answers, where our output is a plain file."""


class _Credentials:
    """The token that a connection presented last; every message is authorized by it anew."""

    def __init__(self, gateway: Gateway, token: str | None) -> None:
        self._gateway = gateway
        self._token = token

    def identify(self) -> Agent:
        """Who is speaking."""
        return self._gateway.authenticate(self._token)

    def renew(self, token: str) -> None:
        """Take a newer token for the same identity; another identity's is a broken relay."""
        agent = self._gateway.authenticate(token)
        if agent.identity != self.identity:
            raise TokenError("mismatch", "the new token is for another agent or another grant")
        self._token = token

    def remember(self) -> None:
        """Bind the connection to who is speaking now."""
        self.identity = self.identify().identity


async def serve_connection(
    gateway: Gateway, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Serve one relay: its first line presents the token, then the connection speaks MCP."""
    try:
        async with asyncio.timeout(HELLO_TIMEOUT):
            hello = decode(await reader.readline())
        token = hello.get("token") if isinstance(hello, dict) else None
        credentials = _Credentials(gateway, token if isinstance(token, str) else None)
        credentials.remember()
    except (TokenError, RpcError, TimeoutError, ValueError) as error:
        writer.write(encode({"error": str(error) or "no token came"}) + b"\n")
    else:
        writer.write(b'{"ok":true}\n')
        await _serve(gateway, credentials, reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def serve_stdio(gateway: Gateway, token: str | None) -> None:
    """Serve the client on this process's stdin and stdout until stdin ends.

    From then on descriptor 1 is stderr, so that a stray print can't break the wire.
    """
    async with _own_streams() as (reader, writer):
        credentials = _Credentials(gateway, token)
        credentials.remember()
        await _serve(gateway, credentials, reader, writer)


@contextlib.asynccontextmanager
async def _own_streams() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    loop = asyncio.get_running_loop()
    wire_in, wire_out = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    async with contextlib.AsyncExitStack() as copies:
        if not _is_stream(wire_in):
            wire_in = await copies.enter_async_context(_copying(wire_in, out=False))
        reader = asyncio.StreamReader(limit=LONGEST_LINE)
        protocol = asyncio.StreamReaderProtocol(reader)
        await loop.connect_read_pipe(lambda: protocol, os.fdopen(wire_in, "rb", buffering=0))
        if not _is_stream(wire_out):
            wire_out = await copies.enter_async_context(_copying(wire_out, out=True))
        transport, drain = await loop.connect_write_pipe(
            asyncio.streams.FlowControlMixin, os.fdopen(wire_out, "wb", buffering=0)
        )
        writer = asyncio.StreamWriter(transport, drain, reader, loop)
        yield reader, writer
        transport.set_write_buffer_limits(high=0)  # so that draining means: all is written
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()


def _is_stream(descriptor: int) -> bool:
    """Whether an event loop can wait for it; a file or /dev/null is always ready, and can't be."""
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)


@contextlib.asynccontextmanager
async def _copying(file: int, *, out: bool) -> AsyncIterator[int]:
    """Our end of a pipe whose other end a thread copies to, or from, a plain file."""
    reading, writing = os.pipe()
    source, target, ours = (reading, file, writing) if out else (file, writing, reading)

    def copy() -> None:
        with os.fdopen(source, "rb", 0) as from_, os.fdopen(target, "wb", 0) as to:
            shutil.copyfileobj(from_, to)

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    yield ours
    if out:
        await asyncio.to_thread(thread.join, _FLUSH_TIMEOUT)


async def _serve(
    gateway: Gateway,
    credentials: _Credentials,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    def send(message: Message) -> None:
        if not writer.is_closing():
            writer.write(b"".join((*pieces(message), b"\n")))

    async with asyncio.TaskGroup() as tasks:
        with DuplexSession(gateway, credentials.identify, send, tasks) as session:
            reading = tasks.create_task(_read(session, credentials, reader, writer))
            closing = tasks.create_task(gateway.draining.wait())
            await asyncio.wait((reading, closing), return_when=asyncio.FIRST_COMPLETED)
            reading.cancel()
            closing.cancel()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(gateway.config.gateway.drain):
                    await _drain(session, writer)


async def _read(
    session: DuplexSession,
    credentials: _Credentials,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    while line := await _next_line(reader):
        _receive(line, session, credentials)
        if writer.transport.get_write_buffer_size() > _SLOW_READER:
            # A client that does not read gets no more of its requests taken.
            await writer.drain()


async def _drain(session: DuplexSession, writer: asyncio.StreamWriter) -> None:
    """Let what was taken be answered, while there is somebody who reads the answers."""
    while session.busy and not _hung_up(writer):
        await session.answered(_LOOK_EVERY)
    with contextlib.suppress(ConnectionError):
        await writer.drain()


def _hung_up(writer: asyncio.StreamWriter) -> bool:
    """Whether the other side has closed both directions, not only the one it writes to."""
    if sys.platform == "win32":
        return writer.is_closing()
    file = writer.get_extra_info("socket") or writer.get_extra_info("pipe")
    if writer.is_closing() or file is None:
        return True
    poll = select.poll()
    poll.register(file.fileno(), 0)
    return any(found & (select.POLLHUP | select.POLLERR) for _, found in poll.poll(0))


async def _next_line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except (ValueError, ConnectionError) as error:
        logger.warning("the client's stream ends here: %s", error)
        return b""


def _receive(line: bytes, session: DuplexSession, credentials: _Credentials) -> None:
    if line.isspace():
        return
    try:
        message = decode(line)
    except RpcError as error:
        session.refuse(error)
        return
    if isinstance(message, dict) and "jsonrpc" not in message and "token" in message:
        _renew(credentials, message["token"])
    else:
        session.receive(message)


def _renew(credentials: _Credentials, token: object) -> None:
    try:
        credentials.renew(str(token))
    except TokenError as error:
        logger.warning("a relay's new token was not taken: %s", error)
