"""Writes to sockets, those of one turn of the event loop in a row.

A write to a process that sleeps has to wake it, which can cost more than all else that is done for
a small message. While there is one message a turn, each leaves at once: who is alone waits for
nobody. After a turn with more, those of the next leave one after the other when it is over: their
reader is woken once for all of them.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import Final
from weakref import WeakKeyDictionary


class Burst:
    """What is written in one event loop; a transport's messages keep their order."""

    def __init__(self) -> None:
        self._count = 0
        self._crowded = False
        self._waiting: list[tuple[asyncio.WriteTransport, bytes]] = []

    def write(self, transport: asyncio.WriteTransport, data: bytes) -> None:
        """Write a whole message, at the latest when this turn of the loop is over.

        Who writes to the transport itself, or closes it, has to call `flush` before.
        """
        if self._count == 0:
            # It is everybody's, and so in nobody's context.
            asyncio.get_running_loop().call_soon(self._end, context=Context())
        self._count += 1
        if self._crowded:
            self._waiting.append((transport, data))
        else:
            transport.write(data)

    def flush(self) -> None:
        """Write now what waits; what can't be sent any more is dropped."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        for transport, data in waiting:
            if not transport.is_closing():
                transport.write(data)

    def _end(self) -> None:
        self._crowded = self._count > 1
        self._count = 0
        self.flush()


_BURSTS: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Burst]] = WeakKeyDictionary()


def burst() -> Burst:
    """That of the running loop."""
    loop = asyncio.get_running_loop()
    found = _BURSTS.get(loop)
    if found is None:
        found = _BURSTS[loop] = Burst()
    return found
