"""A legacy HTTP+SSE server in the test's own loop that can forget its sessions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.backends.raw import Asked, Server, ask, chunked, serving, whole
from tests.gateway.rude_http import result, said


class RudeSse:
    """`calls` are the sessions of the tool calls that came; `gone` is what a lost one hears."""

    def __init__(self, gone: bytes) -> None:
        self.calls: list[int] = []
        self.forgotten: set[int] = set()
        self.noise: list[list[bytes] | None] = []
        """What comes before the answer of each call; None cuts the stream instead."""
        self.server: Server
        self._gone = gone
        self._streams: dict[int, asyncio.StreamWriter] = {}

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        while (asked := await ask(reader)) is not None:
            if asked.line.startswith("GET"):
                self._open(writer)
            else:
                writer.write(self._take(asked))
            await writer.drain()

    def _open(self, writer: asyncio.StreamWriter) -> None:
        number = len(self._streams) + 1
        self._streams[number] = writer
        event = f"event: endpoint\ndata: /messages?{number}\n\n".encode()
        writer.write(chunked(event, content_type="text/event-stream", end=False))

    def _take(self, asked: Asked) -> bytes:
        session = int(asked.line.split()[1].partition("?")[2])
        if session in self.forgotten:
            return self._gone
        message = json.loads(asked.body)
        if message.get("method") == "tools/call":
            self._call(session, message)
        elif "id" in message and "method" in message:
            data = b"event: message\ndata: " + self._answer(session, message) + b"\n\n"
            self._streams[session].write(b"%x\r\n%b\r\n" % (len(data), data))
        return whole(b"", "202 Accepted")

    def _call(self, session: int, message: Any) -> None:
        """Say what is to be said before the answer; where that is nothing, cut the stream."""
        self.calls.append(session)
        writer = self._streams[session]
        noise = self.noise.pop(0) if self.noise else []
        if noise is None:
            writer.close()
            return
        for text in (*noise, said(message, "here")):
            data = b"event: message\ndata: " + text + b"\n\n"
            writer.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _answer(self, session: int, message: Any) -> bytes:
        method = message["method"]
        if method == "initialize":
            info = {"name": "rude", "version": "1"}
            version = message["params"]["protocolVersion"]
            hello = {"protocolVersion": version, "capabilities": {}, "serverInfo": info}
            return result(message, hello)
        if method == "tools/list":
            return result(message, {"tools": [{"name": "do", "inputSchema": {"type": "object"}}]})
        error = {"code": -32601, "message": "Method not found"}
        return json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": error}).encode()


@asynccontextmanager
async def rude_sse(gone: bytes) -> AsyncIterator[RudeSse]:
    """The server at a free port, with one tool, `do`."""
    rude = RudeSse(gone)
    async with serving(rude.handle) as rude.server:
        yield rude
