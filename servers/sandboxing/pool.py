"""Sandboxes that are ready before they are asked for; each is used once.

Above: `sandbox`. It never holds more than its size, and makes one at a time in the background, as a
rule while no call runs: moving a process into a control group holds up every fork and exit on the
machine for some milliseconds.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import anyio

from servers.sandboxing.backend import Backend, Cell
from servers.sandboxing.outcome import Limits, SandboxBroken

logger = logging.getLogger(__name__)

_PAUSE_SECONDS = 1.0
_CALM_SECONDS = 0.1


class Pool:
    """Ready sandboxes of one backend under the same limits."""

    def __init__(self, backend: Backend, limits: Limits, size: int) -> None:
        self._backend = backend
        self._limits = limits
        self._size = size
        self._ready: deque[Cell] = deque()
        self._wanted = anyio.Event()
        self._running = 0
        self._calm = anyio.Event()
        self.trouble: str | None = None
        """Why no sandbox could be made in advance at the last try; it is tried on and on."""

    @property
    def ready(self) -> int:
        """How many wait."""
        return len(self._ready)

    async def run(self) -> None:
        """Fill it whenever something was taken, until cancelled; then discard what waits."""
        try:
            while True:
                while len(self._ready) < self._size:
                    await self._wait_for_calm()
                    await self._add()
                self._wanted = anyio.Event()
                await self._wanted.wait()
        finally:
            while self._ready:
                await self._ready.popleft().discard()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around a call, which had better not be disturbed."""
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._calm.set()

    async def _wait_for_calm(self) -> None:
        with anyio.move_on_after(_CALM_SECONDS):
            while self._running:
                self._calm = anyio.Event()
                await self._calm.wait()

    async def _add(self) -> None:
        try:
            self._ready.append(await self._backend.make(self._limits))
            self.trouble = None
        except (SandboxBroken, OSError) as e:
            if self.trouble != str(e):  # or the log would have it once a second
                logger.warning("no sandbox in advance", extra={"error": str(e)})
            self.trouble = str(e)
            await anyio.sleep(_PAUSE_SECONDS)

    def renew(self) -> list[Cell]:
        """Have others made for those that died while they waited; these are for the caller."""
        dead = [cell for cell in self._ready if not cell.alive]
        for cell in dead:
            self._ready.remove(cell)
            self._wanted.set()
        return dead

    async def take(self, packages: Sequence[Path] = ()) -> Cell:
        """A sandbox that waits, or one made now where none does; raises SandboxBroken.

        `packages` have to be there from the start with some backends.
        """
        if packages and not self._backend.late_packages:
            return await self.fresh(packages)
        try:
            while self._ready:
                cell = self._ready.popleft()
                if cell.alive:
                    return cell
                await cell.discard()
            return await self.fresh()
        finally:
            self._wanted.set()

    async def fresh(self, packages: Sequence[Path] = ()) -> Cell:
        """A sandbox that did not wait; raises SandboxBroken."""
        return await self._backend.make(self._limits, packages)
