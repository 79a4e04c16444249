"""One bulletin for the whole supervisor: something changed, look again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Changes:
    """Whoever changes something calls `notify`; whoever waits for a condition awaits `until`."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.version = 0

    def notify(self) -> None:
        """Wake everybody who waits."""
        self.version += 1
        self._event.set()
        self._event = asyncio.Event()

    async def until(self, condition: Callable[[], object]) -> None:
        """Return once `condition()` is true; it is asked again at every change."""
        while not condition():
            await self._event.wait()

    async def after(self, version: int) -> None:
        """Return once there has been a change since `version`."""
        while self.version == version:
            await self._event.wait()
