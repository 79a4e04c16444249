"""The only way out of an installation's sandbox: a SOCKS5 proxy that knows the index's hosts only.

It accepts on a socket that was made inside the sandbox's own network and handed out; there is no
other route. What flows is TLS between the installer and the index, counted and not read.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

import anyio
from anyio.abc import SocketListener, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

logger = logging.getLogger(__name__)

Host = tuple[str, int]

_CONNECT_SECONDS = 15.0
_HELLO_SECONDS = 60.0
_CHUNK = 65536

_VERSION, _NO_LOGIN, _CONNECT, _BY_NAME, _BY_IPV4 = 5, 0, 1, 3, 1
_GRANTED, _DENIED, _UNREACHABLE = 0, 2, 4

_BROKEN = (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream)


@dataclass(slots=True)
class Proxy:
    """Lets connections through to `hosts`, and `most` bytes in from all of them together.

    `denied` collects the others that were asked for; `exhausted` says that `most` was reached.
    """

    hosts: Collection[Host]
    most: int
    denied: set[str] = field(default_factory=set)
    received: int = 0

    @property
    def exhausted(self) -> bool:
        """Whether more was fetched than may be."""
        return self.received > self.most

    @asynccontextmanager
    async def serving(self, listener: socket.socket) -> AsyncIterator[None]:
        """Serve on `listener`, which it closes, for as long as the context lasts."""
        listener.setblocking(False)
        accepting = await SocketListener.from_socket(listener)
        async with accepting, anyio.create_task_group() as tasks:
            tasks.start_soon(accepting.serve, self._handle)
            yield
            tasks.cancel_scope.cancel()

    async def _handle(self, client: SocketStream) -> None:
        async with client:
            host = None
            with suppress(*_BROKEN, anyio.IncompleteRead):
                with anyio.move_on_after(_HELLO_SECONDS):
                    host = await _asked(client)
                if host is not None:
                    await self._connect(client, host)

    async def _connect(self, client: SocketStream, host: Host) -> None:
        if host not in self.hosts:
            name = f"{host[0]}:{host[1]}"
            logger.warning("an installation asked for a host", extra={"host": name})
            self.denied.add(name)
            await client.send(_answer(_DENIED))
            return
        try:
            with anyio.fail_after(_CONNECT_SECONDS):
                server = await anyio.connect_tcp(*host)
        except (OSError, TimeoutError):
            logger.exception("the index can't be reached", extra={"host": host[0]})
            await client.send(_answer(_UNREACHABLE))
            return
        async with server:
            await client.send(_answer(_GRANTED))
            await self._exchange(client, server)

    async def _exchange(self, client: SocketStream, server: SocketStream) -> None:
        async with anyio.create_task_group() as tasks:

            async def one_way(source: SocketStream, sink: SocketStream, *, counted: bool) -> None:
                try:
                    await self._pass_on(source, sink, counted=counted)
                except _BROKEN:  # or too much: what is half open is of no use
                    tasks.cancel_scope.cancel()

            tasks.start_soon(partial(one_way, client, server, counted=False))
            await one_way(server, client, counted=True)

    async def _pass_on(self, source: SocketStream, sink: SocketStream, *, counted: bool) -> None:
        with suppress(anyio.EndOfStream):
            while data := await source.receive(_CHUNK):
                self.received += len(data) if counted else 0
                if self.exhausted:
                    raise anyio.BrokenResourceError
                await sink.send(data)
        with suppress(RuntimeError):  # uvloop says that of a connection that has ended meanwhile
            await sink.send_eof()


def _answer(code: int) -> bytes:
    return bytes([_VERSION, code, 0, _BY_IPV4, 0, 0, 0, 0, 0, 0])


async def _asked(client: SocketStream) -> Host | None:
    """Which host the client wants (RFC 1928, without login); None where it is answered already."""
    stream = BufferedByteReceiveStream(client)
    _, methods = await stream.receive_exactly(2)
    await stream.receive_exactly(methods)
    await client.send(bytes([_VERSION, _NO_LOGIN]))
    version, command, _, kind = await stream.receive_exactly(4)
    if (version, command) != (_VERSION, _CONNECT) or kind not in (_BY_NAME, _BY_IPV4):
        await client.send(_answer(_DENIED))
        return None
    length = (await stream.receive_exactly(1))[0] if kind == _BY_NAME else 4
    raw = await stream.receive_exactly(length)
    port = int.from_bytes(await stream.receive_exactly(2), "big")
    name = raw.decode("ascii", "replace").lower() if kind == _BY_NAME else socket.inet_ntoa(raw)
    return name, port
