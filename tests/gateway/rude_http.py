"""A legacy streamable HTTP server in the test's own loop that answers calls as a test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from tests.backends.raw import Asked, Server, ask, serving, whole

Answer = Callable[[Any, asyncio.StreamWriter], Awaitable[None]]
Listen = Callable[[int, asyncio.StreamWriter], Awaitable[None]]


class RudeHttp:
    """`calls` are the bodies of the tool calls that came, and the session of each."""

    def __init__(self, answer: Answer, **hints: bool) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.answers: list[Any] = []
        """What it was answered to questions of its own."""
        self.answered = asyncio.Event()
        self.sessions = 0
        self.forgotten: set[str] = set()
        self.gone = whole(b"gone", "404 Not Found")
        """What it says of a session that it has forgotten."""
        self.listening: list[str | None] = []
        """Where each client that listened took its stream up."""
        self.listen: Listen | None = None
        """What a client hears that listens; without it there is nothing to listen to."""
        self.server: Server
        self._answer = answer
        self._hints = hints

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        while (asked := await ask(reader)) is not None:
            await self._handle(asked, writer)
            await writer.drain()

    async def _handle(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        session = asked.headers.get("mcp-session-id", "")
        if session in self.forgotten:
            writer.write(self.gone)
            return
        if asked.line.startswith("GET") and self.listen is not None:
            self.listening.append(asked.headers.get("last-event-id"))
            await self.listen(len(self.listening), writer)
            return
        if not asked.line.startswith("POST"):
            writer.write(whole(b"", "405 Method Not Allowed"))
            return
        message = json.loads(asked.body)
        if message.get("method") == "tools/call":
            self.calls.append((session, message))
            await self._answer(message, writer)
        elif "method" not in message:
            self.answers.append({k: v for k, v in message.items() if k != "jsonrpc"})
            self.answered.set()
            writer.write(whole(b"", "202 Accepted"))
        elif "id" not in message:
            writer.write(whole(b"", "202 Accepted"))
        else:
            writer.write(self._usual(message))

    def _usual(self, message: Any) -> bytes:
        if message["method"] == "initialize":
            self.sessions += 1
            info = {"name": "rude", "version": "1"}
            version = message["params"]["protocolVersion"]
            hello = {"protocolVersion": version, "capabilities": {}, "serverInfo": info}
            header = f"mcp-session-id: session-{self.sessions}\r\n"
            return whole(result(message, hello), headers=header)
        if message["method"] == "ping":
            return whole(result(message, {}))
        if message["method"] == "tools/list":
            tool = {"name": "do", "inputSchema": {"type": "object"}, "annotations": self._hints}
            return whole(result(message, {"tools": [tool]}))
        error = {"code": -32601, "message": "Method not found"}
        return whole(json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": error}).encode())


def result(message: Any, value: Any) -> bytes:
    """The answer to a request."""
    return json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": value}).encode()


def said(message: Any, text: str) -> bytes:
    """A tool's answer in words."""
    return result(message, {"content": [{"type": "text", "text": text}]})


@asynccontextmanager
async def rude_http(answer: Answer, **hints: bool) -> AsyncIterator[RudeHttp]:
    """The server at a free port; `hints` are those of its one tool, `do`."""
    rude = RudeHttp(answer, **hints)
    async with serving(rude.handle) as rude.server:
        yield rude
