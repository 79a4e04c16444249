"""The gateway's end of the fleet channel: the supervisor's word in, reports out."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from typing import Any, Final

from mcpcp.errors import FleetError
from mcpcp.fleet import FleetState, GatewayReport
from mcpcp.jsonrpc import decode, encode

logger = logging.getLogger(__name__)

LONGEST_LINE: Final = 16 * 1024 * 1024
HELLO_TIMEOUT: Final = 60.0


class FleetChannel:
    """A connected stream of JSON lines; `closed` is set when the supervisor has gone."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.closed = asyncio.Event()

    @classmethod
    async def open(cls, descriptor: int) -> FleetChannel:
        """The channel on an inherited descriptor."""
        sock = socket.socket(fileno=descriptor)
        sock.setblocking(False)
        return cls(*await asyncio.open_connection(sock=sock, limit=LONGEST_LINE))

    async def credential(self) -> str:
        """The secret by which the fleet's servers know us; the supervisor's first line."""
        return str(await self._expect("credential"))

    async def first_fleet(self) -> FleetState:
        """The fleet as it is when we start; the supervisor's second line."""
        return FleetState.from_wire(await self._expect("fleet"))

    async def messages(self) -> AsyncIterator[tuple[str, Any]]:
        """Each later line as (kind, value), until the supervisor goes."""
        while line := await self._reader.readline():
            for kind, value in decode(line).items():
                yield kind, FleetState.from_wire(value) if kind == "fleet" else value
        self.closed.set()

    def report(self, report: GatewayReport) -> None:
        """Tell the supervisor about ourselves."""
        self._writer.write(encode({"report": report.to_wire()}) + b"\n")

    async def _expect(self, kind: str) -> Any:
        async with asyncio.timeout(HELLO_TIMEOUT):
            line = await self._reader.readline()
        message = decode(line) if line else {}
        if kind not in message:
            raise FleetError(f"the supervisor did not send its {kind}")
        return message[kind]
