"""A link to a sandbox over a socket, without threads."""

from __future__ import annotations

import socket

import anyio

_CHUNK = 1 << 18


class SocketLink:
    """The host's end; whoever made it closes it."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._unsent = bytearray()
        self._closed = False

    async def send(self, data: bytes) -> None:
        """All of it, or nothing more where the sandbox is gone.

        What cancelling leaves unsent goes first the next time: half a frame would never end.
        """
        self._unsent += data
        while self._unsent:
            try:
                del self._unsent[: self._socket.send(self._unsent)]
            except BlockingIOError:
                await anyio.wait_writable(self._socket)
            except (BrokenPipeError, ConnectionResetError):
                return

    async def receive(self) -> bytes:
        """At least one byte; nothing when the sandbox is gone."""
        while (data := self.received()) is None:
            await anyio.wait_readable(self._socket)
        return data

    def received(self) -> bytes | None:
        """What has come: None while nothing has; nothing when the sandbox is gone."""
        try:
            return self._socket.recv(_CHUNK)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            return b""

    @property
    def alive(self) -> bool:
        """Whether the other end is held, or something that it said has not been received."""
        if self._closed:
            return False
        try:
            return self._socket.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False

    def close(self) -> None:
        """Let go: a sandbox that still waits ends. Again is no error."""
        if not self._closed:
            self._closed = True
            anyio.notify_closing(self._socket)
            self._socket.close()
