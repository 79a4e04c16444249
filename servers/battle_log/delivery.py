"""Delivery: the journal's events go to the backend one by one, in order, until each is settled.

Above: `battle` submits events and tells callers what became of them. Below: `journal`, `backend`.
Of several processes on one folder the one that holds the delivery lock sends, the others append.
"""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import IO, Literal

import anyio
from anyio.to_thread import run_sync

from servers.battle_log.backend import Answer, Away, Backend, Refused
from servers.battle_log.journal import Entry, Event, Journal, Position
from servers.plumbing.health import Health

logger = logging.getLogger(__name__)

FIRST_BACKOFF = 0.2
LONGEST_BACKOFF = 5.0
_NOTICE_SECONDS = 0.2
_TAKE_OVER_SECONDS = 1.0
_FOLLOW_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds that a caller waits for the backend before it is told that its event is queued.

    `following`: the same where another process delivers, which can't tell that the backend is away.
    """

    delivering: float = 3.0
    following: float = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a submitted event; `reason` says why it is not delivered."""

    status: Literal["delivered", "queued", "refused"]
    reason: str | None = None


@dataclass(slots=True)
class _Waiter:
    outcome: Outcome | None = None
    known: anyio.Event = field(default_factory=anyio.Event)

    def tell(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.known.set()


def backoff(failures: int) -> float:
    """Seconds before the next attempt: doubling, bounded, jittered so that fleets spread out."""
    longest = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(failures - 1, 10))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing


class Delivery:
    """Takes events in and gets them to the backend; `running` must be entered once."""

    def __init__(self, journal: Journal, backend: Backend, patience: Patience) -> None:
        self._journal = journal
        self._backend = backend
        self._patience = patience
        self._waiters: dict[str, _Waiter] = {}
        self._news = anyio.Event()
        self._delivers = False
        self._position: Position | None = None
        self._failures = 0
        self._fault: str | None = None
        self._away: str | None = None

    @property
    def _trouble(self) -> str | None:
        return self._fault or self._away

    def health(self) -> Health:
        """Degraded while events wait for a backend that is away, or the journal can't be used."""
        return Health("degraded", self._trouble) if self._trouble else Health()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Deliver in the background; what is not delivered at the end stays in the journal."""
        # before the first event comes: whether it is we who deliver it is known then
        lock = await self._try_lock()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._run, lock)
            yield
            tasks.cancel_scope.cancel()
        await self._backend.aclose()

    async def submit(self, event: Event) -> Outcome:
        """Record the event durably and report what became of it; OSError: it was not recorded."""
        waiter = self._waiters[event.event_id] = _Waiter()
        try:
            end = await run_sync(self._journal.append, event)
            self._news.set()
            patience = self._patience
            with anyio.move_on_after(patience.delivering if self._delivers else patience.following):
                await (waiter.known.wait() if self._delivers else self._follow(event, end, waiter))
        finally:
            del self._waiters[event.event_id]
        return waiter.outcome or Outcome("queued", self._why_not_yet())

    def _why_not_yet(self) -> str:
        if not self._delivers:
            return "another process delivers from the same log and has not come to it yet"
        return self._trouble or "the backend has not answered yet"

    async def _follow(self, event: Event, end: Position, waiter: _Waiter) -> None:
        """Watch the process that delivers, or become it."""
        while not waiter.known.is_set() and not self._delivers:
            try:
                outcome = await run_sync(self._settled_elsewhere, event, end)
            except OSError:  # the event is safe; only its fate can't be read
                outcome = None
            if outcome:
                waiter.tell(outcome)
            await anyio.sleep(_FOLLOW_SECONDS)
        await waiter.known.wait()

    def _settled_elsewhere(self, event: Event, end: Position) -> Outcome | None:
        if not self._journal.is_settled(end):
            return None
        if self._journal.was_refused(event.event_id):
            return Outcome("refused", "the backend refused it")
        return Outcome("delivered")

    async def _try_lock(self) -> IO[bytes] | None:
        """The right to deliver, which is ours from now on; None while another process has it."""
        try:
            lock = await run_sync(self._journal.try_deliver_lock)
        except OSError as e:
            self._journal_trouble(e)
            return None
        if lock is not None:
            self._delivers, self._fault = True, None
        return lock

    async def _run(self, lock: IO[bytes] | None) -> None:
        while lock is None:
            await self._pause(_TAKE_OVER_SECONDS)
            lock = await self._try_lock()
        with lock:
            await self._deliver_all()

    async def _deliver_all(self) -> None:
        while True:
            try:
                size = self._journal.size()
                entries = await run_sync(self._journal.waiting, self._position)
                if not entries:
                    self._fault = self._away = None
                    await run_sync(self._tidy)
            except OSError as e:
                self._journal_trouble(e)
                await self._pause(_TAKE_OVER_SECONDS)
                continue
            if entries:
                await self._deliver_batch(entries)
            else:
                await self._await_appends(size)

    def _tidy(self) -> None:
        if self._journal.size():
            self._journal.compact()

    async def _deliver_batch(self, entries: list[Entry]) -> None:
        for entry in entries:
            if not await self._deliver(entry):
                self._failures += 1
                await self._pause(backoff(self._failures))
                return
            self._failures = 0

    async def _deliver(self, entry: Entry) -> bool:
        """Settle one entry; False when it has to wait."""
        if isinstance(entry.event, bytes):
            logger.error("a line of the battle log was damaged; it is kept in damaged.jsonl")
            return await self._record(entry, None)
        answer = await self._backend.post(entry.event)
        if isinstance(answer, Away) or not await self._record(entry, answer):
            self._put_off(answer)
            return False
        self._away = None  # before anybody is told: who asks then shall not hear otherwise
        self._tell(entry.event.event_id, answer)
        return True

    async def _record(self, entry: Entry, answer: Answer | None) -> bool:
        """Write down that the entry is settled, and how; False when it can't be kept."""
        try:
            if isinstance(entry.event, bytes):
                await run_sync(self._journal.keep_damaged, entry.event)
            elif isinstance(answer, Refused):
                await run_sync(self._journal.refuse, entry.event, answer.reason)
        except OSError as e:
            self._journal_trouble(e)
            return False
        self._position = entry.end
        try:
            await run_sync(self._journal.settle, entry.end)
        except OSError as e:  # it is settled all the same; after a restart it is sent again
            self._journal_trouble(e)
        return True

    def _tell(self, event_id: str, answer: Answer) -> None:
        if isinstance(answer, Refused):
            logger.error(
                "an event was refused; it is kept in refused.jsonl",
                extra={"event_id": event_id, "reason": answer.reason},
            )
        elif self._failures:
            logger.info("the backend is back", extra={"backend": self._backend.shown})
        waiter = self._waiters.get(event_id)
        if waiter:
            refused = isinstance(answer, Refused)
            reason = answer.reason if isinstance(answer, Refused) else None
            waiter.tell(Outcome("refused" if refused else "delivered", reason))

    def _put_off(self, answer: Answer) -> None:
        """Tell everybody who waits that the event in front did not get through."""
        if isinstance(answer, Away):
            if not self._failures:
                logger.warning(
                    "events are queued",
                    extra={"backend": self._backend.shown, "reason": answer.reason},
                )
            self._away = answer.reason
        for waiter in self._waiters.values():
            waiter.tell(Outcome("queued", self._trouble))

    def _journal_trouble(self, error: OSError) -> None:
        trouble = f"the battle log can't be used: {error.strerror or type(error).__name__}"
        if trouble != self._fault:  # once, not at every attempt
            logger.error("the battle log can't be used", extra={"error": str(error)})
        self._fault = trouble

    async def _pause(self, seconds: float) -> None:
        """Wait that long, or until an event is submitted here."""
        if self._news.is_set():
            self._news = anyio.Event()
        with anyio.move_on_after(seconds):
            await self._news.wait()

    async def _await_appends(self, size: int) -> None:
        """Wait until an event is submitted here, or another process changes the journal."""
        while not self._news.is_set() and self._journal.size() == size:
            with anyio.move_on_after(_NOTICE_SECONDS):
                await self._news.wait()
        self._news = anyio.Event()
