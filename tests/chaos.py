"""A chaos run: servers are killed at random under many clients, and every call is accounted for.

    report = await run(fleet, seconds=10, seed=1)
    assert not report.problems()

The servers write each call's id to a ledger before they answer, so afterwards there are two books:
what clients were told, and what ran. Clients are raw HTTP over /mcp, of both eras, and over /sse.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx2
import psutil

from tests.fleet import PROJECT, Fleet
from tests.gateway.harness import call, modern, modern_headers, request
from tests.modern import META

LEDGER = PROJECT / "tests" / "programs" / "ledger.py"
CLIENTS = 32
LONGEST = 120.0
"""Seconds after which a call that has not ended, one way or the other, hangs."""
ENOUGH = 100
"""Calls that must have been answered, and kills of each server; a slow machine takes longer."""
ENOUGH_KILLS = 3
LATEST = 400.0
"""Seconds after which a run ends all the same."""
GROWTH = 40 * 2**20
"""Bytes by which the gateway may have grown between warm and done."""
PAUSES = (0.0, 0.0, 0.002, 0.01, 0.05)


@dataclass(frozen=True)
class Told:
    """What a client was told of one call: `delivered` as the error says it, None where it came."""

    id: str
    server: str
    tool: str
    seconds: float
    error: str | None = None
    delivered: bool | None = None


@dataclass
class Report:
    """Both books, and how the gateway did."""

    told: list[Told] = field(default_factory=list)
    ran: collections.Counter[str] = field(default_factory=collections.Counter)
    lost_sessions: list[str] = field(default_factory=list)
    kills: collections.Counter[str] = field(default_factory=collections.Counter)
    memory: list[int] = field(default_factory=list)
    gateways: int = 1

    @property
    def answered(self) -> list[Told]:
        """The calls that were."""
        return [told for told in self.told if told.error is None]

    @property
    def failed(self) -> list[Told]:
        """The others."""
        return [told for told in self.told if told.error is not None]

    @property
    def growth(self) -> int:
        """Bytes, from the first quarter's highest to the end."""
        return self.memory[-1] - max(self.memory[: len(self.memory) // 4 + 1])

    def problems(self) -> list[str]:
        """Everything that must not be; empty after a good run."""
        found = [problem for told in self.told if (problem := self._problem(told)) is not None]
        strangers = self.ran.keys() - {told.id for told in self.told}
        found += [f"{id} ran, and nobody was told" for id in strangers]
        found += [f"session lost: {lost}" for lost in self.lost_sessions]
        if self.growth > GROWTH:
            found.append(f"the gateway grew by {self.growth >> 20} MB")
        if self.gateways != 1:
            found.append("the gateway itself was restarted")
        return found

    def _problem(self, told: Told) -> str | None:
        ran = self.ran[told.id]
        most = 2 if told.tool == "again" else 1
        if ran > most:
            return f"{told} ran {ran} times"
        if told.error is None:
            return None if ran else f"{told} was answered and never ran"
        if told.delivered is None:
            return f"{told} does not say whether it was delivered"
        lied = ran and not told.delivered
        return f"{told} ran, and was said not to be delivered" if lied else None

    def __str__(self) -> str:
        times = sorted(told.seconds for told in self.told)
        failed = collections.Counter(told.delivered for told in self.failed)
        unsure = [told for told in self.failed if told.delivered]
        took_effect = sum(self.ran[told.id] > 0 for told in unsure)
        rows = {
            "kills": ", ".join(f"{name} {n}" for name, n in sorted(self.kills.items())),
            "calls": f"{len(self.told)}, answered {len(self.answered)}",
            "errors, never delivered": f"{failed[False]}",
            "errors, delivered": f"{failed[True]}, of which {took_effect} ran",
            "ran twice": f"{sum(n > 1 for n in self.ran.values())}, all of them idempotent",
            "sessions lost": str(len(self.lost_sessions)),
            "call p50, p99, longest": ", ".join(
                f"{times[min(len(times) - 1, int(len(times) * q))] * 1000:.0f} ms"
                for q in (0.5, 0.99, 1)
            ),
            "gateway's memory": f"{self.memory[0] >> 20} MB, at the end {self.memory[-1] >> 20} MB",
        }
        return "\n".join(f"{name:26}{value}" for name, value in rows.items())


class Client(Protocol):
    """One client with one session for the whole run."""

    async def call(self, tool: str, arguments: dict[str, Any]) -> Any:
        """The JSON-RPC answer."""


class SessionLost(Exception):
    """The gateway does not know the session any more, or has ended its stream."""


@dataclass
class ModernClient:
    """Stateless POSTs."""

    http: httpx2.AsyncClient
    number: int = 0

    async def call(self, tool: str, arguments: dict[str, Any]) -> Any:
        self.number += 1
        body = modern("tools/call", call(tool, **arguments), self.number)
        return decoded(await self.http.post("/mcp", json=body, headers=modern_headers(body)))


@dataclass
class LegacyClient:
    """One session of streamable HTTP."""

    http: httpx2.AsyncClient
    session: dict[str, str]
    number: int = 1

    async def call(self, tool: str, arguments: dict[str, Any]) -> Any:
        self.number += 1
        body = request("tools/call", call(tool, **arguments), self.number)
        return decoded(await self.http.post("/mcp", json=body, headers=self.session))


class SseClient:
    """One stream of HTTP+SSE; `read` is its reader task."""

    def __init__(self, http: httpx2.AsyncClient, lines: AsyncIterator[str], endpoint: str) -> None:
        self._http = http
        self._lines = lines
        self._endpoint = endpoint
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._number = 0

    async def read(self) -> None:
        async for line in self._lines:
            if line.startswith("data:"):
                message = json.loads(line[5:])
                if "method" not in message:
                    self._waiting.pop(message["id"]).set_result(message)
        for future in self._waiting.values():
            future.set_exception(SessionLost("the stream has ended"))

    async def ask(self, method: str, params: dict[str, Any]) -> Any:
        self._number += 1
        future = self._waiting[self._number] = asyncio.get_running_loop().create_future()
        body = request(method, params, self._number)
        answer = await self._http.post(self._endpoint, json=body)
        if answer.status_code != 202:
            raise SessionLost(f"HTTP {answer.status_code}: {answer.text}")
        return await future

    async def call(self, tool: str, arguments: dict[str, Any]) -> Any:
        return await self.ask("tools/call", call(tool, **arguments))


def decoded(answer: httpx2.Response) -> Any:
    """The message that answers a POST, from JSON or from a stream."""
    if answer.status_code == 404 and "Session" in answer.text:
        raise SessionLost(answer.text)
    lines = [line[5:] for line in answer.text.splitlines() if line.startswith("data:")]
    return json.loads(lines[-1] if lines else answer.text)


HELLO = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": META["io.modelcontextprotocol/clientInfo"],
}


@asynccontextmanager
async def connected(fleet: Fleet, number: int) -> AsyncIterator[Client]:
    """A client; in turn of the modern era, of the legacy one, and over SSE."""
    headers = {
        "Authorization": f"Bearer {fleet.token()}",
        "Accept": "application/json, text/event-stream",
    }
    base = f"http://127.0.0.1:{fleet.gateway['port']}"
    options: Any = {"headers": headers, "base_url": base, "timeout": LONGEST, "verify": False}
    async with httpx2.AsyncClient(**options) as http:
        if number % 3 == 0:
            yield ModernClient(http)
        elif number % 3 == 1:
            answer = await http.post("/mcp", json=request("initialize", HELLO))
            yield LegacyClient(http, {"Mcp-Session-Id": answer.headers["mcp-session-id"]})
        else:
            async with http.stream("GET", "/sse", timeout=None) as stream:
                lines = stream.aiter_lines()
                await anext(lines)
                client = SseClient(http, lines, (await anext(lines)).removeprefix("data: "))
                async with asyncio.TaskGroup() as tasks:
                    reading = tasks.create_task(client.read())
                    await client.ask("initialize", HELLO)
                    yield client
                    reading.cancel()


class Run:
    """One chaos run; what is random comes from `seed`, but for the machine's own timing."""

    def __init__(self, fleet: Fleet, seed: int) -> None:
        self.fleet = fleet
        self.report = Report()
        self.over = asyncio.Event()
        self._seed = seed
        self._ledger = fleet.folder / "ledger"
        self._servers = sorted(fleet.servers)

    async def go(self, seconds: float, clients: int) -> Report:
        """Clients call and servers die for `seconds`, or until there was enough of both; then all
        is counted."""
        latest = time.monotonic() + seconds + LATEST
        gateway = psutil.Process(self.fleet.pid("gateway"))
        async with asyncio.TaskGroup() as tasks:
            for number in range(clients):
                tasks.create_task(self._client(number))
            tasks.create_task(self._kill(gateway))
            tasks.create_task(self._weigh(gateway))
            await asyncio.sleep(seconds)
            while not self._had_enough() and time.monotonic() < latest:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            self.over.set()
        self.report.memory.append(gateway.memory_info().rss)
        self.report.gateways += not gateway.is_running()
        self.report.ran.update(self._ledger.read_text().split())
        return self.report

    def _had_enough(self) -> bool:
        killed = all(self.report.kills[name] >= ENOUGH_KILLS for name in self._servers)
        return killed and len(self.report.answered) >= ENOUGH

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.over.wait()

    async def _client(self, number: int) -> None:
        chance = random.Random(f"{self._seed}/{number}")  # noqa: S311
        async with connected(self.fleet, number) as client:
            turn = 0
            while not self.over.is_set():
                turn += 1
                try:
                    self.report.told.append(await self._call(client, f"{number}-{turn}", chance))
                except SessionLost as error:
                    self.report.lost_sessions.append(f"client {number}: {error}")
                    return
                await self._pause(chance.random() * 0.05)

    async def _call(self, client: Client, id: str, chance: random.Random) -> Told:
        server, tool = chance.choice(self._servers), chance.choice(("once", "once", "again"))
        arguments = {
            "file": str(self._ledger),
            "id": id,
            "before": chance.choice(PAUSES),
            "after": chance.choice(PAUSES),
        }
        began = time.monotonic()
        async with asyncio.timeout(LONGEST):
            answer = await client.call(f"{server}_{tool}", arguments)
        took = time.monotonic() - began
        if "error" in answer:
            error = answer["error"]
            delivered = (error.get("data") or {}).get("delivered")
            return Told(id, server, tool, took, error["message"], delivered)
        text = answer["result"]["content"][0]["text"]
        assert text == f"wrote {id}", answer
        return Told(id, server, tool, took)

    async def _kill(self, gateway: psutil.Process) -> None:
        chance = random.Random(self._seed)  # noqa: S311
        while not self.over.is_set():
            await self._pause(0.1 + chance.random() * 0.4)
            name = chance.choice(self._servers)
            for pid in await asyncio.to_thread(self._pids, name, gateway):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self.report.kills[name] += 1

    def _pids(self, name: str, gateway: psutil.Process) -> list[int]:
        """The process of a server, the supervisor's or the gateway's, if it runs now."""
        if "port" in self.fleet.servers[name]:
            pid = self.fleet.pid(name)
            return [pid] if pid else []
        found = []
        for child in gateway.children():
            with contextlib.suppress(psutil.Error):
                if str(LEDGER) in child.cmdline():
                    found.append(child.pid)
        return found

    async def _weigh(self, gateway: psutil.Process) -> None:
        while not self.over.is_set():
            await self._pause(1.0)
            self.report.memory.append(gateway.memory_info().rss)


def configure(fleet: Fleet) -> None:
    """One server a transport: two of the supervisor's, one of the gateway's."""
    restart = {"backoff": "20ms", "max_backoff": "100ms", "burst": 1000}
    fleet.add("old", LEDGER, type="sse", restart=restart)
    fleet.add("web", LEDGER, type="http", restart=restart)
    fleet.servers["pipe"] = {"command": "python", "args": [str(LEDGER)]}


async def run(fleet: Fleet, *, seconds: float, seed: int, clients: int = CLIENTS) -> Report:
    """A run on a fleet that is configured and launched."""
    return await Run(fleet, seed).go(seconds, clients)
