"""What happens to calls that take long: after a fixed time each, on one timer for all of them.

Nearly every call is over before; a timer of its own, set and cancelled, costs it 3 µs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Final

Action = Callable[[], object]

_GRAIN: Final = 0.001
"""Seconds by which a timer may be early."""


class Overdue:
    """Does what was added `delay` seconds ago and not taken out since. Used in one event loop."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._loop = asyncio.get_running_loop()
        self._due: dict[Action, float] = {}
        """In the order of their times, as all have the same delay."""
        self._timer: asyncio.TimerHandle | None = None

    def add(self, action: Action) -> None:
        """Do this, unless it is taken out before."""
        when = self._due[action] = self._loop.time() + self._delay
        if self._timer is None:
            self._set_timer(when)

    def remove(self, action: Action) -> None:
        """Don't do this any more, if it was not done."""
        self._due.pop(action, None)

    def _set_timer(self, when: float) -> None:
        # It is everybody's, and so in nobody's context.
        self._timer = self._loop.call_at(when, self._run, context=Context())

    def _run(self) -> None:
        self._timer = None
        latest = self._loop.time() + _GRAIN
        try:
            while self._due and self._next()[1] <= latest:
                action, _ = self._next()
                del self._due[action]
                action()
        finally:
            if self._due and self._timer is None:
                self._set_timer(self._next()[1])

    def _next(self) -> tuple[Action, float]:
        return next(iter(self._due.items()))
