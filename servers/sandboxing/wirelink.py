"""A link to a container over its standard streams, carried by two threads to a socket of our own.

The engine's connection may be a pipe of Windows' or TLS, which an event loop can't wait for; the
socket can be waited for on any loop, not only on the one that was there when the link was made.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from servers.docker_policy.wire import STDERR, Wire
from servers.plumbing.threads import told_as_by_fork
from servers.sandboxing.sockets import SocketLink

_CHUNK = 1 << 16
_COMPLAINT = 2000


class WireLink(SocketLink):
    """The host's end; begins to read at once.

    Raises OSError where there is no thread or descriptor for it; the wire is the caller's then.
    """

    def __init__(self, wire: Wire) -> None:
        ours, theirs = socket.socketpair()
        super().__init__(ours)
        self._wire = wire
        self._complaint = bytearray()
        try:
            inwards = _begun(lambda: self._carry_in(theirs))
        except OSError:
            super().close()
            theirs.close()
            raise
        try:
            _begun(lambda: self._carry_out(theirs, inwards))
        except OSError:
            super().close()
            inwards.join()
            theirs.close()
            raise

    def _carry_out(self, theirs: socket.socket, inwards: threading.Thread) -> None:
        """What the container writes; a receiver that is slow holds it up, and so the container."""
        with suppress(OSError):
            for stream, data in self._wire.frames():
                if stream == STDERR:
                    self._complaint += data[: _COMPLAINT - len(self._complaint)]
                else:
                    theirs.sendall(data)
        with suppress(OSError):
            theirs.shutdown(socket.SHUT_WR)
        inwards.join()
        theirs.close()  # not before: its number may be another file's at once

    def _carry_in(self, theirs: socket.socket) -> None:
        """What we send, until we let go."""
        with suppress(OSError):
            while data := theirs.recv(_CHUNK):
                self._wire.send(data)

    @property
    def complaint(self) -> str:
        """What its program wrote to standard error: nothing, as long as it is well."""
        return self._complaint.decode("utf-8", "replace")

    def close(self) -> None:
        """Let go: the container's standard input ends, and with it the container."""
        super().close()
        self._wire.close()


def _begun(do: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=do, name="sandbox-wire", daemon=True)
    with told_as_by_fork():
        thread.start()
    return thread
