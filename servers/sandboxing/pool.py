"""Sandboxes that are ready before they are asked for; each is used once.

Above: `sandbox`. It never holds more than its size, and makes one at a time in the background.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import anyio

from servers.sandboxing.backend import Backend, Cell
from servers.sandboxing.outcome import Limits, SandboxBroken

logger = logging.getLogger(__name__)

_PAUSE_SECONDS = 1.0


class Pool:
    """Ready sandboxes of one backend under the same limits."""

    def __init__(self, backend: Backend, limits: Limits, size: int) -> None:
        self._backend = backend
        self._limits = limits
        self._size = size
        self._ready: deque[Cell] = deque()
        self._wanted = anyio.Event()

    @property
    def ready(self) -> int:
        """How many wait."""
        return len(self._ready)

    async def run(self) -> None:
        """Fill it whenever something was taken, until cancelled; then discard what waits."""
        try:
            while True:
                while len(self._ready) < self._size:
                    await self._add()
                self._wanted = anyio.Event()
                await self._wanted.wait()
        finally:
            while self._ready:
                await self._ready.popleft().discard()

    async def _add(self) -> None:
        try:
            self._ready.append(await self._backend.make(self._limits))
        except (SandboxBroken, OSError) as e:
            logger.warning("no sandbox in advance", extra={"error": str(e)})
            await anyio.sleep(_PAUSE_SECONDS)

    async def take(self, packages: Sequence[Path] = ()) -> Cell:
        """A sandbox that waits, or one made now where none does; raises SandboxBroken.

        `packages` have to be there from the start with some backends.
        """
        if packages and not self._backend.late_packages:
            return await self._backend.make(self._limits, packages)
        try:
            while self._ready:
                cell = self._ready.popleft()
                if cell.alive:
                    return cell
                await cell.discard()
            return await self._backend.make(self._limits)
        finally:
            self._wanted.set()
