"""A link to a sandbox over a container's standard streams, read by a thread of its own."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial

import anyio
import anyio.from_thread
import anyio.lowlevel

from servers.docker_policy.wire import STDERR, Wire
from servers.plumbing.threads import in_thread, told_as_by_fork

_COMPLAINT = 2000
_LOOP_HAS_ENDED = (anyio.RunFinishedError, RuntimeError, CancelledError)
"""What the thread may meet: a loop that was closed, is being closed, or cancelled our words."""


class WireLink:
    """The host's end; begins to read at once, on the event loop that made it.

    Raises OSError where there is no thread to read in; the wire is the caller's then."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._arrive, self._arrived = anyio.create_memory_object_stream[bytes](1)
        self._complaint = bytearray()
        self._closed = False
        self._loop = anyio.lowlevel.current_token()
        with told_as_by_fork():
            threading.Thread(target=self._read, name="sandbox-wire", daemon=True).start()

    def _read(self) -> None:
        """In the thread; a receiver that is slow holds it up, and so the container."""
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, *_LOOP_HAS_ENDED):
            for stream, data in self._wire.frames():
                if self._closed:
                    return
                if stream == STDERR:
                    self._complaint += data[: _COMPLAINT - len(self._complaint)]
                else:
                    anyio.from_thread.run(self._arrive.send, data, token=self._loop)
            if not self._closed:
                anyio.from_thread.run_sync(self._arrive.close, token=self._loop)

    @property
    def alive(self) -> bool:
        """Whether the container still holds its end."""
        return self._arrive.statistics().open_send_streams > 0

    @property
    def complaint(self) -> str:
        """What its program wrote to standard error: nothing, as long as it is well."""
        return self._complaint.decode("utf-8", "replace")

    async def send(self, data: bytes) -> None:
        """All of it, or nothing more where the container is gone."""
        try:
            await in_thread(partial(self._wire.send, data), abandon=True)
        except OSError:  # no thread is left: without its request the container is of no use
            self._wire.close()

    async def receive(self) -> bytes:
        """At least one byte; nothing when the container is gone."""
        try:
            return await self._arrived.receive()
        except anyio.EndOfStream:
            return b""

    def close(self) -> None:
        """Let go: the container's standard input ends, and with it the container."""
        self._closed = True  # the thread need not tell us, and there may be no loop to tell soon
        self._wire.close()
        self._arrived.close()
        self._arrive.close()
