"""Clients for measuring: as cheap as can be, over streamable HTTP and over a command's stdio."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import orjson

from benchmarks.wire import Answer, Pool, request_head, with_body

PATIENCE: Final = 30.0
_VERSION: Final = "2025-06-18"
_INITIALIZE: Final = {
    "protocolVersion": _VERSION,
    "capabilities": {},
    "clientInfo": {"name": "load", "version": "1"},
}
_LONGEST_LINE: Final = 64 * 1024 * 1024
_ANSWER: Final = re.compile(rb'\{"jsonrpc":"2\.0","id":([0-9]+),"(?:result|error)":')


class Failed(Exception):
    """An answer that is an error."""


class Client(Protocol):
    """What is measured through: requests, each with the raw text of its answer."""

    async def open(self) -> None:
        """Connect and shake hands."""

    async def request(self, method: str, params: bytes) -> bytes:
        """The answer to one request, as it came."""

    async def close(self) -> None:
        """End it."""


class HttpClient:
    """A session of streamable HTTP."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self._url = url
        self._pool = Pool(url)
        self._ids = itertools.count(1)
        self._headers = {
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
        }
        if token is not None:
            self._headers["authorization"] = f"Bearer {token}"
        self._head = request_head("POST", url, self._headers)

    async def open(self) -> None:
        """See Client."""
        answer = await self._post(_envelope(0, "initialize", orjson.dumps(_INITIALIZE)))
        message_of(answer)
        self._headers["mcp-protocol-version"] = _VERSION
        if (session := answer.headers.get(b"mcp-session-id")) is not None:
            self._headers["mcp-session-id"] = session.decode()
        self._head = request_head("POST", self._url, self._headers)
        await self._post(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')

    async def request(self, method: str, params: bytes) -> bytes:
        """See Client."""
        return message_of(await self._post(_envelope(next(self._ids), method, params)))

    async def close(self) -> None:
        """See Client."""
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(2):
                head = request_head("DELETE", self._url, self._headers)
                await self._pool.exchange(head + b"\r\n")
        self._pool.close()

    async def _post(self, body: bytes) -> Answer:
        answer = await self._pool.exchange(with_body(self._head, body))
        if answer.status >= 300:
            raise Failed(f"HTTP {answer.status}: {answer.body[:200]!r}")
        return answer


class StdioClient:
    """A command that is started for one session."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        self._command = command
        self._environ = environ
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[bytes]] = {}

    @property
    def pid(self) -> int:
        """The command's process."""
        return self._process.pid

    async def open(self) -> None:
        """See Client."""
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            env=dict(self._environ),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=sys.stderr if os.environ.get("BENCH_VERBOSE") else asyncio.subprocess.DEVNULL,
            limit=_LONGEST_LINE,
            start_new_session=True,
        )
        assert self._process.stdin is not None  # noqa: S101  both were asked for
        assert self._process.stdout is not None  # noqa: S101
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._reader = asyncio.ensure_future(self._read())
        async with asyncio.timeout(PATIENCE):
            await self.request("initialize", orjson.dumps(_INITIALIZE))
        self._stdin.write(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')

    async def request(self, method: str, params: bytes) -> bytes:
        """See Client."""
        request_id = next(self._ids)
        waiting = self._waiting[request_id] = asyncio.get_running_loop().create_future()
        self._stdin.write(_envelope(request_id, method, params) + b"\n")
        return _checked(await waiting)

    async def close(self) -> None:
        """See Client."""
        self._stdin.close()
        try:
            async with asyncio.timeout(10):
                await self._process.wait()
        except TimeoutError:
            os.killpg(self.pid, signal.SIGKILL)
            await self._process.wait()
        await self._reader

    async def _read(self) -> None:
        while line := await self._stdout.readline():
            waiting = self._waiting.pop(_id_of(line), None)
            if waiting is not None:
                waiting.set_result(line)
        for waiting in self._waiting.values():
            waiting.set_exception(ConnectionError("the command has ended"))


class InTurn:
    """Several clients, one after the other with each request: agents that share a gateway."""

    def __init__(self, clients: Sequence[Client]) -> None:
        self._clients = clients
        self._turns = itertools.cycle(clients)

    async def open(self) -> None:
        """See Client."""
        for client in self._clients:
            await client.open()

    async def request(self, method: str, params: bytes) -> bytes:
        """See Client."""
        return await next(self._turns).request(method, params)

    async def close(self) -> None:
        """See Client."""
        for client in self._clients:
            await client.close()


async def list_tools(client: Client) -> list[dict[str, Any]]:
    """The whole list."""
    tools: list[dict[str, Any]] = []
    params: dict[str, Any] = {}
    while True:
        result = orjson.loads(await client.request("tools/list", orjson.dumps(params)))["result"]
        tools += result["tools"]
        if not result.get("nextCursor"):
            return tools
        params = {"cursor": result["nextCursor"]}


def _id_of(line: bytes) -> Any:
    """Which request a line answers; reading it all would be the client's cost."""
    answer = _ANSWER.match(line)
    return int(answer[1]) if answer is not None else orjson.loads(line).get("id")


def _envelope(request_id: int, method: str, params: bytes) -> bytes:
    head = b'{"jsonrpc":"2.0","id":%d,"method":"%b","params":%b}'
    return head % (request_id, method.encode(), params)


def message_of(answer: Answer) -> bytes:
    """The JSON-RPC message of an HTTP answer; raises Failed for an error, or a tool's."""
    if not answer.headers.get(b"content-type", b"").startswith(b"text/event-stream"):
        return _checked(answer.body)
    lines = answer.body.replace(b"\r\n", b"\n").split(b"\n")
    data = [line[5:].strip() for line in lines if line.startswith(b"data:")]
    return _checked(next(text for text in reversed(data) if text))


def _checked(text: bytes) -> bytes:
    """Looks only where an error is written: parsing it all would be the client's cost."""
    if b'"error":{' in text[:120] or b'"isError":true' in text[-40:]:
        raise Failed(repr(text[:300]))
    return text
