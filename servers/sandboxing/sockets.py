"""A link to a sandbox over a unix socket, without threads."""

from __future__ import annotations

import socket

import anyio

_CHUNK = 1 << 18


class SocketLink:
    """The host's end; whoever made it closes it."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end

    async def send(self, data: bytes) -> None:
        """All of it, or nothing more where the sandbox is gone."""
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                await anyio.wait_writable(self._socket)
            except (BrokenPipeError, ConnectionResetError):
                return

    async def receive(self) -> bytes:
        """At least one byte; nothing when the sandbox is gone."""
        while True:
            try:
                return self._socket.recv(_CHUNK)
            except BlockingIOError:
                await anyio.wait_readable(self._socket)
            except ConnectionResetError:
                return b""

    def close(self) -> None:
        """Let go: a sandbox that still waits ends."""
        anyio.notify_closing(self._socket)
        self._socket.close()
