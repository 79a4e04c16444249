"""Writes to sockets: in a row, where there are many.

A write to a process that sleeps has to wake it, which can cost more than all else that is done for
a small message. While messages come one at a time, each leaves at once: who is alone waits for
nobody. When several have come before one left, there is a crowd, and as long as it lasts the writes
of each turn of the event loop leave one after the other when it is over: their reader is woken once
for all of them.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import Final
from weakref import WeakKeyDictionary

_CROWD: Final = 3
"""Reads without a write among them; one call alone may have two, its answer and what is said of
the request."""


class Burst:
    """What is written in one event loop; a transport's messages keep their order."""

    def __init__(self) -> None:
        self.heard = 0
        """Reads since the last write, which the readers count."""
        self._crowded = False
        self._waiting: list[tuple[asyncio.WriteTransport, bytes]] = []

    def write(self, transport: asyncio.WriteTransport, data: bytes) -> None:
        """Write a whole message, at the latest when this turn of the loop is over.

        Who writes to the transport itself, or closes it, has to call `flush` before.
        """
        if self.heard < _CROWD and not self._crowded:
            self.heard = 0
            transport.write(data)
            return
        self._crowded = True
        if not self._waiting:
            # It is everybody's, and so in nobody's context.
            asyncio.get_running_loop().call_soon(self._end, context=Context())
        self._waiting.append((transport, data))

    def flush(self) -> None:
        """Write now what waits; what can't be sent any more is dropped."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        for transport, data in waiting:
            if not transport.is_closing():
                transport.write(data)

    def _end(self) -> None:
        self._crowded = len(self._waiting) > 1
        self.heard = 0
        self.flush()


_BURSTS: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Burst]] = WeakKeyDictionary()


def burst() -> Burst:
    """That of the running loop."""
    loop = asyncio.get_running_loop()
    found = _BURSTS.get(loop)
    if found is None:
        found = _BURSTS[loop] = Burst()
    return found
