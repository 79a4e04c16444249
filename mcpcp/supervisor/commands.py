"""What the control socket is asked, and answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol, TypeAlias

from mcpcp.errors import FleetError, McpcpError
from mcpcp.fleet import Snapshot
from mcpcp.supervisor.changes import Changes

logger = logging.getLogger(__name__)

ADOPTED_PAUSE: Final = 0.1
"""Seconds between two status lines: a person reads them, and CPU figures change all the time."""

ANSWER_TIMEOUT: Final = 10.0
"""Seconds in which those who asked for a stop can be answered, though the loop be slow."""

Answer: TypeAlias = dict[str, Any]


class Fleet(Protocol):
    """What the commands act on."""

    @property
    def changes(self) -> Changes:
        """Notified at each change of the snapshot."""

    @property
    def background(self) -> bool:
        """Whether the fleet has no terminal of its own."""

    @property
    def stopped(self) -> bool:
        """Whether every process has ended."""

    def snapshot(self) -> Snapshot:
        """All that can be told now."""

    def ask_stop(self, reason: str) -> None:
        """Begin the graceful stop."""

    async def restart(self, name: str) -> None:
        """Stop and start a server; raises FleetError when there is none, or it does not serve."""


class Commands:
    """One object a fleet, `serve` once a client; `adopters` hold a background fleet up."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.adopters = 0
        self._operations: Mapping[str, Callable[[Answer], Awaitable[Answer]]] = {
            "status": self._status,
            "restart": self._restart,
        }
        self._stops = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one client until it goes."""
        while line := await reader.readline():
            try:
                question = _parse(line)
                if question["op"] == "adopt":
                    await self._adopt(reader, writer)
                    return
                if question["op"] == "stop":
                    await self._stop(writer)
                    return
                answer = await self._answer(question)
            except McpcpError as error:
                answer = {"error": str(error)}
            await _write(writer, answer)

    async def _answer(self, question: Answer) -> Answer:
        operation = self._operations.get(question["op"])
        if operation is None:
            known = ", ".join([*self._operations, "stop", "adopt"])
            raise FleetError(f"there is no operation {question['op']!r}: there are {known}")
        return await operation(question)

    async def _status(self, _: Answer) -> Answer:
        return self._fleet.snapshot().to_wire()

    async def _restart(self, question: Answer) -> Answer:
        name = question.get("name")
        if not isinstance(name, str):
            raise FleetError("restart needs the name of a server")
        await self._fleet.restart(name)
        return {"ok": True}

    async def _stop(self, writer: asyncio.StreamWriter) -> None:
        self._stops += 1
        try:
            self._fleet.ask_stop("asked over the control socket")
            await self._fleet.changes.until(lambda: self._fleet.stopped)
            await _write(writer, {"ok": True})
        finally:
            self._stops -= 1
            self._fleet.changes.notify()

    async def answer_stops(self) -> None:
        """Return when those who asked for the stop know that it is done."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_TIMEOUT):
                await self._fleet.changes.until(lambda: not self._stops)

    async def _adopt(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send the status at every change; the fleet ends with the connection, unless let go."""
        if not self._fleet.background:
            pid = self._fleet.snapshot().guard
            raise FleetError(f"the fleet runs in a terminal already, as pid {pid}")
        if self.adopters:
            raise FleetError("the fleet has been taken over by somebody else already")
        self._count(1)
        detached = False
        try:
            async with asyncio.TaskGroup() as tasks:
                telling = tasks.create_task(self._tell(writer))
                detached = await _wait_for_detach(reader)
                telling.cancel()
        except* OSError as errors:
            logger.debug("the one who had taken the fleet over went away: %r", errors.exceptions)
        finally:
            self._count(-1)
        if not detached:
            self._fleet.ask_stop("whoever had taken it over has ended")

    def _count(self, by: int) -> None:
        self.adopters += by
        self._fleet.changes.notify()

    async def _tell(self, writer: asyncio.StreamWriter) -> None:
        while True:
            version = self._fleet.changes.version
            await _write(writer, self._fleet.snapshot().to_wire())
            await asyncio.sleep(ADOPTED_PAUSE)
            await self._fleet.changes.after(version)


def _parse(line: bytes) -> Answer:
    try:
        question = json.loads(line)
    except ValueError:
        question = None
    if not isinstance(question, dict) or not isinstance(question.get("op"), str):
        raise FleetError('a question is one line of JSON, as {"op": "status"}')
    return question


async def _wait_for_detach(reader: asyncio.StreamReader) -> bool:
    """True at `{"op": "detach"}`, False at the end of the connection."""
    try:
        while line := await reader.readline():
            if _parse(line)["op"] == "detach":
                return True
    except (OSError, FleetError):
        return False
    return False


async def _write(writer: asyncio.StreamWriter, answer: Answer) -> None:
    writer.write(json.dumps(answer).encode() + b"\n")
    await writer.drain()
