"""A connection to a container's standard streams, which is its lifeline as well.

The engine closes a container's standard input when the connection that holds it ends, for whatever
reason. A container that ends on that can't outlive its maker, not even one that was killed.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from docker import DockerClient

_HEADER = struct.Struct(">BxxxL")
_CHUNK = 65536

STDOUT, STDERR = 1, 2


class Wire:
    """Attached to one container; sending and receiving block, `close` wakes both."""

    def __init__(self, client: DockerClient, container: str, *, output: bool) -> None:
        """Attach before the container starts; `output`: also receive what it writes."""
        wanted = {"stdin": 1, "stream": 1, "stdout": int(output), "stderr": int(output)}
        self._raw: Any = client.api.attach_socket(container, params=wanted)
        # the SDK gives a file around the socket, or its own kind of socket for Windows' pipes
        self._socket: Any = getattr(self._raw, "_sock", self._raw)
        self._socket.settimeout(None)

    def send(self, data: bytes) -> None:
        """To standard input; a container that has ended takes nothing more."""
        with suppress(OSError):
            self._socket.sendall(data)

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """(STDOUT or STDERR, bytes) until the container ends or the wire is closed."""
        with suppress(OSError):
            while header := self._exactly(_HEADER.size):
                stream, size = _HEADER.unpack(header)
                while size:
                    data = self._socket.recv(min(size, _CHUNK))
                    if not data:
                        return
                    size -= len(data)
                    yield stream, data

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self._socket.recv(size - len(data))
            if not piece:
                return b""
            data += piece
        return data

    def close(self) -> None:
        """Let go: the container's standard input ends."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        for held in (getattr(self._raw, "_response", None), self._raw, self._socket):
            if held is not None:
                with suppress(OSError, ValueError):  # ValueError: its file is closed already
                    held.close()
