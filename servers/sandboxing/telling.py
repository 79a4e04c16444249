"""Output as it comes, told in whole lines to somebody who may be slow: the code never waits."""

from __future__ import annotations

import logging

import anyio

from servers.sandboxing.call import Listener, Stream
from servers.sandboxing.text import decode

logger = logging.getLogger(__name__)


class Teller:
    """Collects output while the listener is busy; tells no more than `most` bytes of a stream."""

    def __init__(self, listener: Listener, most: int) -> None:
        self._listener = listener
        self._waiting: dict[Stream, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self._left: dict[Stream, int] = {"stdout": most, "stderr": most}
        self._news = anyio.Event()

    def add(self, stream: Stream, data: bytes) -> None:
        """The next bytes of a stream."""
        taken = data[: self._left[stream]]
        self._left[stream] -= len(taken)
        self._waiting[stream] += taken
        if b"\n" in taken or b"\r" in taken:
            self._news.set()

    async def run(self) -> None:
        """Tell until cancelled; a listener that fails is not told any more."""
        while True:
            await self._news.wait()
            self._news = anyio.Event()
            for stream, waiting in self._waiting.items():
                end = max(waiting.rfind(b"\n"), waiting.rfind(b"\r")) + 1
                lines = bytes(waiting[:end])
                del waiting[:end]
                if lines and not await self._tell(stream, lines):
                    return

    async def _tell(self, stream: Stream, lines: bytes) -> bool:
        try:
            await self._listener(stream, decode(lines))
        except Exception:
            logger.exception("output can't be told while it comes")
            return False
        return True
