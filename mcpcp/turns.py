"""How many calls one server is given at a time; the others wait their turn, bounded."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Final

from mcpcp.errors import DeadlineExceeded

_AT_ONCE: Final[AbstractAsyncContextManager[None]] = contextlib.nullcontext()


class Turns:
    """The turns at one server; first come, first served. Used in one event loop."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._busy = 0
        self._most = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def take(self, most: int | None, timeout: float) -> AbstractAsyncContextManager[None]:
        """A context to make a call in; entering it waits while `most` calls are at the server.

        None is no bound. Raises DeadlineExceeded after `timeout` seconds of waiting: then the call
        has not been sent. The newest `most` counts, so a reload applies to those who wait.
        """
        return _AT_ONCE if most is None else self._turn(most, timeout)

    @property
    def waiting(self) -> int:
        """Calls that wait now."""
        return sum(not turn.done() for turn in self._waiting)

    @contextlib.asynccontextmanager
    async def _turn(self, most: int, timeout: float) -> AsyncIterator[None]:
        self._most = most
        if self._busy < most and not self.waiting:
            self._busy += 1
        else:
            await self._wait(timeout)
        try:
            yield
        finally:
            self._busy -= 1
            self._call_next()

    async def _wait(self, timeout: float) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._call_next()
        try:
            async with asyncio.timeout(timeout):
                await turn
        except BaseException as error:
            self._give_up(turn)
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded(
                    f"server {self._server} is busy: its {self._most} calls at once (concurrency)"
                    f" did not end in {timeout:g} s; nothing was sent, try again later"
                ) from None
            raise

    def _give_up(self, turn: asyncio.Future[None]) -> None:
        """Whoever stops waiting passes on the turn that may just have come."""
        if turn.done() and not turn.cancelled():
            self._busy -= 1
            self._call_next()
        elif turn in self._waiting:
            self._waiting.remove(turn)

    def _call_next(self) -> None:
        while self._waiting and self._busy < self._most:
            turn = self._waiting.popleft()
            if not turn.done():  # a done one was cancelled
                self._busy += 1
                turn.set_result(None)
