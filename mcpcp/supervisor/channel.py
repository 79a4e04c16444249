"""The fleet channel: what supervisor and gateway tell each other, JSON lines over a socketpair."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from mcpcp.fleet import GatewayReport

logger = logging.getLogger(__name__)

FLEET_VARIABLE: Final = "MCPCP_FLEET_FD"
LONGEST_REPORT: Final = 1024 * 1024
MOST_UNREAD: Final = 4 * 1024 * 1024


class FleetChannel:
    """The supervisor's end: one connection for each life of the gateway."""

    def __init__(
        self, tasks: asyncio.TaskGroup, on_report: Callable[[GatewayReport], None]
    ) -> None:
        self._tasks = tasks
        self._on_report = on_report
        self._writer: asyncio.StreamWriter | None = None

    @contextlib.contextmanager
    def attach(self, greeting: Callable[[], Iterable[dict[str, Any]]]) -> Iterator[dict[str, int]]:
        """Lend a new gateway its end; `greeting` makes what it is told first.

        It is called when messages begin to reach the gateway, so that none is lost in between.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            self._close()
            self._tasks.create_task(self._serve(ours, greeting))
            yield {FLEET_VARIABLE: theirs.fileno()}

    def send(self, message: dict[str, Any]) -> None:
        """Tell the gateway, if there is one; one that does not read is told nothing more."""
        writer = self._writer
        if writer is None or writer.is_closing():
            return
        if writer.transport.get_write_buffer_size() > MOST_UNREAD:
            logger.warning("the gateway does not read its fleet channel")
            return
        writer.write(json.dumps(message).encode() + b"\n")

    def close(self) -> None:
        """End the connection, and the task that reads it."""
        self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    async def _serve(
        self, ours: socket.socket, greeting: Callable[[], Iterable[dict[str, Any]]]
    ) -> None:
        reader, writer = await asyncio.open_connection(sock=ours, limit=LONGEST_REPORT)
        self._writer = writer
        for message in greeting():
            self.send(message)
        try:
            while line := await reader.readline():
                self._hear(line)
        except (OSError, ValueError) as error:
            logger.debug("the fleet channel broke: %r", error)
        finally:
            writer.close()
            if self._writer is writer:
                self._writer = None

    def _hear(self, line: bytes) -> None:
        try:
            self._on_report(GatewayReport.from_wire(json.loads(line)["report"]))
        except (ValueError, KeyError, TypeError, AttributeError):
            logger.warning("the gateway sent what is no report: %.200r", line)
