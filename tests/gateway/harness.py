"""A real gateway for tests: `python -m mcpcp serve` on a config of its own, and clients of it."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx2
import psutil
from mcp.client.client import Client
from mcp.client.sse import sse_client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from mcpcp import keyring, tokens
from mcpcp.policy import Allowlist
from tests.modern import META, MODERN
from tests.ports import is_free, reserve
from tests.processes import command

PROJECT = Path(__file__).resolve().parents[2]
RAW = PROJECT / "tests" / "programs" / "raw_server.py"
TIME = PROJECT / "servers" / "time_client.py"
BATTLE = PROJECT / "servers" / "battle.py"
PATIENCE = 90.0
"""Seconds after which something hangs: how busy the machine is must not matter."""
FOREVER = "10m"
"""For a timeout in a config that is not what the test is about: longer than any test."""


@dataclass(frozen=True)
class Way:
    """How a client reaches the gateway, and in which era."""

    transport: str
    mode: str

    def __str__(self) -> str:
        return f"{self.transport}-{'modern' if self.mode == 'auto' else self.mode}"

    @property
    def modern(self) -> bool:
        return self.mode == "auto"


WAYS = [
    Way(transport, mode) for transport in ("http", "sse", "stdio") for mode in ("legacy", "auto")
]


@asynccontextmanager
async def closing(stream: AbstractAsyncContextManager[Any]) -> AsyncIterator[Any]:
    """A stream of the SDK's SSE client, which fails when something comes in while it closes."""
    try:
        async with stream as streams:
            yield streams
    except* anyio.BrokenResourceError:
        pass


class Gateway:
    """One config and the gateway that runs on it; set `servers` and the rest before `start`."""

    def __init__(self, folder: Path, keys: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.config = folder / "mcpcp.json"
        self.servers: dict[str, dict[str, Any]] = {}
        self.agents: dict[str, Any] = {"tester": {"allow": {"*": ["*"]}}}
        self.settings: dict[str, Any] = {
            "port": port,
            "drain": FOREVER,
            "first_list_wait": FOREVER,
        }
        self.extra: dict[str, Any] = {}
        self.keys = keys
        self.log = folder / "gateway.log"
        # Short: a unix socket's path has 108 bytes at most.
        self._runtime = tempfile.mkdtemp(prefix="mcpcp-", dir="/tmp")
        self.environ = {k: v for k, v in os.environ.items() if not k.startswith("MCPCP_")}
        self.environ["XDG_RUNTIME_DIR"] = self._runtime
        self.process: subprocess.Popen[bytes] | None = None

    # The config

    def add_raw(self, name: str, *flags: str, **entry: Any) -> None:
        """A stdio server without the SDK: it is up in a moment."""
        args = [str(RAW), "--name", name, *flags]
        self.servers[name] = {"command": "python", "args": args, "timeout": FOREVER, **entry}

    def write(self) -> None:
        """Put the config where it is read from, whole."""
        draft = self.config.with_suffix(".draft")
        draft.write_text(
            json.dumps(
                {
                    "mcpServers": self.servers,
                    "gateway": self.settings,
                    "agents": self.agents,
                    "keys_dir": str(self.keys),
                    "data_dir": str(self.folder / "data"),
                    **self.extra,
                }
            )
        )
        draft.replace(self.config)

    # The process

    def start(self, *, ready: bool = True) -> None:
        """Start it; return when it answers, and with `ready` when every server has had its time."""
        self.write()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mcpcp", "serve", "--config", str(self.config)],
                cwd=self.folder,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.wait(lambda: self.get("/ready" if ready else "/health")[0] == 200, "not ready")

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal it and wait for its end; its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def kill_server(self, name: str) -> int:
        """SIGKILL a stdio server; its pid."""
        process = self.server_process(name)
        process.kill()
        return process.pid

    def server_process(self, name: str) -> psutil.Process:
        """The process of a raw stdio server."""

        def sole() -> psutil.Process | None:
            """It, once an earlier one has gone, and once it runs its own program."""
            found = [p for p in psutil.Process(self.pid).children() if name in command(p)]
            return found[0] if len(found) == 1 else None

        found: psutil.Process = self.wait(sole, f"not one process runs {name}")
        return found

    def close(self) -> None:
        """Stop it, however it stands, and see that nothing is left of it."""
        shutil.rmtree(self._runtime, ignore_errors=True)
        if self.process is None:
            return
        below = psutil.Process(self.pid).children(recursive=True) if self.running else []
        if self.running:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self.process.wait()
            _, left = psutil.wait_procs(below, PATIENCE)
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
        assert not left, f"left over: {left}\n{self.text()[-4000:]}"
        assert is_free(self.port)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    # What it says

    def text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait(self, condition: Callable[[], Any], what: str = "it did not happen") -> Any:
        """The first true value of `condition`."""
        deadline = time.monotonic() + PATIENCE
        while not (value := condition()):
            assert time.monotonic() < deadline, f"{what}\n{self.text()[-4000:]}"
            assert self.running, f"the gateway has ended\n{self.text()[-4000:]}"
            time.sleep(0.02)
        return value

    async def until(self, condition: Callable[[], Any], what: str = "it did not happen") -> Any:
        """The same, while a client in this task lives on."""
        deadline = time.monotonic() + PATIENCE
        while not (value := condition()):
            assert time.monotonic() < deadline, f"{what}\n{self.text()[-4000:]}"
            await asyncio.sleep(0.02)
        return value

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        """Status and text; (0, reason) where it can't be reached."""
        request = urllib.request.Request(self.url(path), headers=headers)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except (OSError, http.client.HTTPException) as error:
            return 0, str(error)

    def metrics(self) -> str:
        """What Prometheus is told, with the token that it shows."""
        token = (self.folder / "data" / "scrape.token").read_text().strip()
        status, text = self.get("/metrics", Authorization=f"Bearer {token}")
        assert status == 200, text
        return text

    def url(self, path: str = "/mcp") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def audit(self) -> list[dict[str, Any]]:
        """Every call on record, of every gateway of this config."""
        files = sorted((self.folder / "data" / "audit").glob("audit*.jsonl"))
        lines = [line for file in files for line in records(file)]
        return [line for line in lines if "tool" in line]

    # Clients

    def token(self, agent: str = "tester", **options: Any) -> str:
        """A new token of an agent of the config."""
        return self.token_for(agent, self.agents[agent]["allow"], **options)

    def token_for(
        self, agent: str, allow: dict[str, list[str]], ttl: float = 600, **options: Any
    ) -> str:
        """A new token with a grant of its own."""
        key = keyring.load_signing(self.keys)
        return tokens.issue(key, agent, Allowlist.of(allow), ttl=ttl, **options)

    def headers(self, token: str | None = None) -> dict[str, str]:
        return {"Authorization": f"Bearer {token or self.token()}"}

    @asynccontextmanager
    async def client(
        self, way: Way, agent: str = "tester", token: str | None = None, **options: Any
    ) -> AsyncIterator[Any]:
        """The SDK's `Client`, untyped: what its union types hide is what tests look at."""
        token = token or self.token(agent)
        options = {"mode": way.mode, "cache": None, **options}
        if way.transport == "stdio":
            async with Client(self.stdio(token), **options) as client:
                yield client
        elif way.transport == "sse":
            sse = sse_client(self.url("/sse"), headers=self.headers(token), timeout=PATIENCE)
            stream = closing(sse)
            async with Client(stream, **options) as client:
                yield client
        else:
            async with (
                httpx2.AsyncClient(headers=self.headers(token), timeout=PATIENCE) as http,
                Client(streamable_http_client(self.url(), http_client=http), **options) as client,
            ):
                yield client

    def stdio(self, token: str) -> StdioServerParameters:
        """`mcpcp stdio` with a gateway of its own, on the same config."""
        return StdioServerParameters(
            command=sys.executable,
            args=["-m", "mcpcp", "stdio", "--no-launch", "--config", str(self.config)],
            env={**self.environ, "MCPCP_TOKEN": token},
            cwd=self.folder,
        )

    def http(self, token: str | None = None, **headers: str) -> httpx2.AsyncClient:
        """A plain HTTP client with a token and what a POST to /mcp needs."""
        fixed = {
            **self.headers(token),
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
        }
        base = f"http://127.0.0.1:{self.port}"
        return httpx2.AsyncClient(
            headers={**fixed, **headers},
            base_url=base,
            timeout=PATIENCE,
            verify=False,  # there is no TLS here, and its context costs 30 ms a client
        )


def records(file: Path) -> list[Any]:
    """The JSON of each line, but for one that is being written."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines(True) if line.endswith("\n")]


def request(method: str, params: dict[str, Any] | None = None, request_id: Any = 1) -> Any:
    """A legacy request."""
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params or {}}


def modern(method: str, params: dict[str, Any] | None = None, request_id: Any = 1) -> Any:
    """A modern request; what `params` has in `_meta` is kept."""
    params = params or {}
    meta = {**META, **params.get("_meta", {})}
    return request(method, {**params, "_meta": meta}, request_id)


def modern_headers(message: Any) -> dict[str, str]:
    """The headers that mirror a modern request."""
    headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": message["method"]}
    if "name" in message["params"]:
        headers["Mcp-Name"] = message["params"]["name"]
    return headers


def call(tool: str, /, **arguments: Any) -> dict[str, Any]:
    """The params of a tool call."""
    return {"name": tool, "arguments": arguments}


@contextmanager
def open_gateway(folder: Path, keys: Path) -> Iterator[Gateway]:
    """A gateway to configure and start; at the end nothing of it is left."""
    with reserve() as port:
        gateway = Gateway(folder, keys, port)
        try:
            yield gateway
        finally:
            gateway.close()
