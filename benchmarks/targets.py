"""What is measured: the floor, this gateway in its transports, and rivals; each started and ready.

Above: `gateway` measures. Below: `load` has the clients, `tests.fleet` the configs and launchers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import psutil

from benchmarks import load, rivals
from mcpcp import keyring, tokens
from mcpcp.audit import chains, verify
from mcpcp.policy import Allowlist
from tests.fleet import PROJECT, Fleet, open_fleet
from tests.ports import reserve

ALLOWLISTS: Final = (
    {"*": ["*"]},
    {"mcp*": ["*"]},
    {"mcp1": ["*"], "mcp2": ["*"], "mcp3": ["*"]},
    {"mcp*": ["echo", "big", "filler_*"]},
    {"mcp1": ["e*", "b*", "f*"], "mcp*": ["e*", "b*", "f*"]},
)
"""Five grants that differ and grant the same."""
READY_WITHIN: Final = 20.0
ECHO_MARK: Final = "benchmarks.echo"


@dataclass(frozen=True)
class Servers:
    """Echo servers that run, and what one of them would be as a command."""

    ports: tuple[int, ...]
    tools: int

    @property
    def total(self) -> int:
        """Tools of all of them."""
        return self.tools * len(self.ports)

    def urls(self, path: str = "/mcp") -> list[str]:
        """Where they are."""
        return [f"http://127.0.0.1:{port}{path}" for port in self.ports]

    @property
    def command(self) -> list[str]:
        """One stdio server with as many tools as all of them."""
        return [sys.executable, "-m", ECHO_MARK, "stdio", "--tools", str(self.total)]


@dataclass
class Target:
    """A gateway that runs and is ready."""

    name: str
    client: load.Client
    roots: list[int]
    prefix: str
    started: float
    calls: int = 0
    """Tool calls that were made through it."""
    new_client: Callable[[], load.Client] | None = None
    """One more client, where it has a session of its own."""

    def tool(self, name: str) -> bytes:
        """A tool's name in front of it."""
        return f"{self.prefix}{name}".encode()

    def processes(self) -> list[psutil.Process]:
        """All that belongs to it; the echo servers below it do not."""
        found: dict[int, psutil.Process] = {}
        for pid in self.roots:
            with contextlib.suppress(psutil.Error):
                root = psutil.Process(pid)
                for process in [root, *root.children(recursive=True)]:
                    if process.cmdline()[1:3] != ["-m", ECHO_MARK]:
                        found[process.pid] = process
        return list(found.values())

    def cpu(self) -> float:
        """Seconds of processor time that it has used."""
        return sum(sum(process.cpu_times()[:2]) for process in self.processes())

    def memory(self) -> float:
        """Resident memory in MB."""
        return sum(process.memory_info().rss for process in self.processes()) / 1e6


@contextlib.contextmanager
def running(command: Sequence[str], environ: dict[str, str] | None = None) -> Iterator[int]:
    """A process in a group of its own; TERM at the end, KILL if that does not help."""
    output = None if os.environ.get("BENCH_VERBOSE") else subprocess.DEVNULL
    process = subprocess.Popen(
        command,
        cwd=PROJECT,
        env={**os.environ, **(environ or {})},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )
    try:
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(15)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def open_servers(count: int, tools: int) -> Iterator[Servers]:
    """Echo servers over HTTP and SSE."""
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(reserve()) for _ in range(count)]
        for port in ports:
            command = [sys.executable, "-m", ECHO_MARK, "http"]
            stack.enter_context(running([*command, "--port", str(port), "--tools", str(tools)]))
        for port in ports:
            _until_open(port)
        yield Servers(tuple(ports), tools)


def _until_open(port: int) -> None:
    """Until somebody listens there."""
    deadline = time.monotonic() + READY_WITHIN
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


async def until_ready(make: Callable[[], load.Client], tools: int) -> load.Client:
    """A client that sees every tool."""
    wrong: object = None
    async with asyncio.timeout(READY_WITHIN) as patience:
        while True:
            client = make()
            try:
                await client.open()
                if len(found := await load.list_tools(client)) >= tools:
                    patience.reschedule(None)
                    return client
                wrong = f"{len(found)} tools of {tools}"
            except (OSError, load.Failed, TimeoutError) as error:
                wrong = error
            with contextlib.suppress(OSError, AttributeError):
                await client.close()
            await asyncio.sleep(0.01)
    raise TimeoutError(f"not ready: {wrong}")


@contextlib.asynccontextmanager
async def direct(servers: Servers) -> AsyncIterator[Target]:
    """No gateway: the first echo server itself."""
    client = await until_ready(lambda: load.HttpClient(servers.urls()[0]), servers.tools)
    yield Target("direct", client, [], "", 0.0)
    await client.close()


@contextlib.asynccontextmanager
async def over_http(
    name: str, command: Callable[[int], list[str]], prefix: str, tools: int
) -> AsyncIterator[Target]:
    """A gateway that a command with a port starts, and that asks for no token."""
    with reserve() as port:
        began = time.perf_counter()
        with running(command(port)) as pid:
            url = f"http://127.0.0.1:{port}/mcp"
            client = await until_ready(lambda: load.HttpClient(url), tools)
            yield Target(name, client, [pid], prefix, time.perf_counter() - began)
            await client.close()


def floor(servers: Servers) -> contextlib.AbstractAsyncContextManager[Target]:
    """The floor before them."""
    command = [sys.executable, "-m", "benchmarks.floor", *servers.urls(), "--port"]
    return over_http("floor", lambda port: [*command, str(port)], "mcp1_", servers.total)


def rival(which: rivals.Rival, servers: Servers) -> contextlib.AbstractAsyncContextManager[Target]:
    """Another gateway, with the same tools behind it."""
    return over_http(
        which.name,
        lambda port: which.command(port, servers.urls(), servers.command),
        which.prefix(len(servers.ports)),
        servers.total,
    )


Front = Literal["http", "relay", "alone"]


@contextlib.asynccontextmanager
async def mcpcp(
    keys: Path, servers: Servers, front: Front, behind: Literal["http", "sse"], profile: str = ""
) -> AsyncIterator[Target]:
    """This gateway with tokens, allowlists, audit and metrics on, and five agents in turn."""
    with (
        tempfile.TemporaryDirectory(prefix="mcpcp-bench-") as folder,
        open_fleet(Path(folder), keys) as fleet,
    ):
        path = "/mcp" if behind == "http" else "/sse"
        for number, url in enumerate(servers.urls(path), 1):
            fleet.servers[f"mcp{number}"] = {"type": behind, "url": url}
        fleet.agents = {f"agent{n}": {"allow": allow} for n, allow in enumerate(ALLOWLISTS, 1)}
        fleet.write()
        start = {"http": _serving, "relay": _relayed, "alone": _alone}[front]
        async with start(fleet, _tokens(keys), servers.total, profile) as target:
            target.name = f"mcpcp: {_FRONTS[front]}, {behind} behind"
            yield target
            await target.client.close()
        # The process has ended here, and the folder is still there.
        if wrong := _what_is_wrong(fleet, keys, target.calls):
            raise RuntimeError(f"{target.name}: the audit log is not whole: {wrong}")


_FRONTS: Final = {"http": "http in front", "relay": "relay in front", "alone": "stdio in front"}


@contextlib.asynccontextmanager
async def _serving(
    fleet: Fleet, tokens_: list[str], tools: int, profile: str
) -> AsyncIterator[Target]:
    program = ["benchmarks.profiled", profile] if profile else ["mcpcp"]
    command = [sys.executable, "-m", *program, "serve", "--config", str(fleet.config)]
    url = f"http://127.0.0.1:{fleet.gateway['port']}/mcp"
    began = time.perf_counter()
    with running(command, fleet.environ) as pid:
        first = await until_ready(lambda: load.HttpClient(url, tokens_[0]), tools)
        seconds = time.perf_counter() - began
        await first.close()
        client = load.InTurn([load.HttpClient(url, token) for token in tokens_])
        await client.open()
        target = Target("", client, [pid], "mcp1_", seconds)
        target.new_client = lambda: load.HttpClient(url, tokens_[0])
        yield target


@contextlib.asynccontextmanager
async def _relayed(
    fleet: Fleet, tokens_: list[str], tools: int, profile: str
) -> AsyncIterator[Target]:
    began = time.perf_counter()
    launcher = fleet.start()
    try:
        await asyncio.to_thread(fleet.wait_ready)
        made = [_stdio(fleet, token) for token in tokens_]
        await made[0].open()
        await load.list_tools(made[0])
        seconds = time.perf_counter() - began
        for relay in made[1:]:
            await relay.open()
        roots = [launcher.pid, *(relay.pid for relay in made)]
        yield Target("", load.InTurn(made), roots, "mcp1_", seconds)
    finally:
        fleet.stop(launcher)


@contextlib.asynccontextmanager
async def _alone(
    fleet: Fleet, tokens_: list[str], tools: int, profile: str
) -> AsyncIterator[Target]:
    """One agent: each would have a gateway of its own."""
    began = time.perf_counter()
    client = _stdio(fleet, tokens_[0])
    await client.open()
    await load.list_tools(client)
    yield Target("", client, [client.pid], "mcp1_", time.perf_counter() - began)


def _stdio(fleet: Fleet, token: str) -> load.StdioClient:
    command = [sys.executable, "-m", "mcpcp", "stdio", "--no-launch"]
    environ = {**fleet.environ, "MCPCP_TOKEN": token}
    return load.StdioClient([*command, "--config", str(fleet.config)], environ)


def _tokens(keys: Path) -> list[str]:
    key = keyring.load_signing(keys)
    return [
        tokens.issue(key, f"agent{n}", Allowlist.of(allow), ttl=3600)
        for n, allow in enumerate(ALLOWLISTS, 1)
    ]


def _what_is_wrong(fleet: Fleet, keys: Path, calls: int) -> str:
    """With the audit log, if anything: a broken chain, or fewer records than there were calls."""
    verdicts = [
        verify(log, keys) for log in chains(fleet.folder / "data" / "audit" / "audit.jsonl")
    ]
    if broken := [verdict.broken for verdict in verdicts if verdict.broken is not None]:
        return "; ".join(broken)
    records = sum(verdict.records for verdict in verdicts)
    return f"{records} records of {calls} calls" if records < calls else ""
