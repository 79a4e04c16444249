"""Starts real scripts and real backends for the tests of `servers/`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import httpx2
from mcp.client.client import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

ROOT = Path(__file__).resolve().parents[2]
PROBE = Path(__file__).with_name("probe.py")
DEADLINE = 120.0
"""Seconds after which something hangs: a machine may be slow, and stand still for a while."""

ENDLESS = httpx2.Timeout(DEADLINE, read=None)
"""For answers that may be long in coming; pytest has a deadline for the whole test."""


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what nobody tells us, such as another process's end."""
    with anyio.fail_after(DEADLINE):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.02)


def wait_until(condition: Callable[[], bool]) -> None:
    """`until` for what runs without an event loop."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@dataclass
class Script:
    """A script that runs; its log is collected as it comes."""

    process: subprocess.Popen[bytes]
    log: list[dict[str, Any]] = field(default_factory=list)
    noise: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    port: int = 0
    collector: threading.Thread = field(init=False)
    silent: bool = False

    def __post_init__(self) -> None:
        self.collector = threading.Thread(target=self._collect)
        self.collector.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _collect(self) -> None:
        assert self.process.stderr
        for raw in self.process.stderr:
            line = raw.decode(errors="replace").rstrip()
            with self.changed:
                try:
                    self.log.append(json.loads(line))
                except ValueError:
                    self.noise.append(line)
                self.changed.notify_all()
        with self.changed:
            self.silent = True
            self.changed.notify_all()

    def wait_for(self, message: str, times: int = 1, **fields: str) -> dict[str, Any]:
        """The log entry with that message and these fields, as often as asked."""

        def found() -> list[dict[str, Any]]:
            return [
                entry
                for entry in self.log
                if message in entry["message"]
                and all(entry.get(name) == value for name, value in fields.items())
            ]

        with self.changed:
            self.changed.wait_for(lambda: len(found()) >= times or self.silent, DEADLINE)
            assert len(found()) >= times, (message, fields, self.log, self.noise)
            return found()[-1]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Its exit code; its log is complete then."""
        self.process.send_signal(number)
        return self.ended()

    def kill(self) -> int:
        """The same."""
        self.process.kill()
        return self.ended()

    def ended(self) -> int:
        """Wait for its end by itself; the same."""
        code = self.process.wait(DEADLINE)
        self.collector.join(DEADLINE)
        return code

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> httpx2.Response:
        return httpx2.get(f"{self.url}{path}", headers=headers or {}, timeout=DEADLINE)


@contextmanager
def running(
    script: Path | str,
    *flags: str,
    env: Mapping[str, str] | None = None,
    credential: str | None = None,
    scrape: str = "",
    calls: Mapping[str, Mapping[str, str]] | None = None,
    launch: Sequence[str] = (),
) -> Iterator[Script]:
    """The script over HTTP on a free port, from its first line of log to its end."""
    environ = {**os.environ, **(env or {})}
    passed: list[int] = []
    if credential is not None:
        reader, writer = os.pipe()
        os.write(
            writer,
            f"{credential}\n{json.dumps({'scrape': scrape, 'calls': calls or {}})}\n".encode(),
        )
        os.close(writer)
        environ["MCPCP_CREDENTIAL_FD"] = str(reader)
        passed.append(reader)
    command = [sys.executable, *launch, str(script), "--transport", "sse", "--log-format", "json"]
    if "--port" not in flags:
        command += ["--port", "0"]
    process = subprocess.Popen(
        [*command, *flags], cwd=ROOT, env=environ, stderr=subprocess.PIPE, pass_fds=passed
    )
    for descriptor in passed:
        os.close(descriptor)
    running_script = Script(process)
    try:
        running_script.port = running_script.wait_for("listening")["port"]
        yield running_script
    finally:
        running_script.kill()
        assert process.stderr
        process.stderr.close()


@asynccontextmanager
async def connected(
    url: str, transport: str, mode: str, credential: str | None = None
) -> AsyncIterator[Client]:
    """The SDK's client over `sse` or `http`, of either era."""
    headers = {"X-Mcpcp-Credential": credential} if credential else {}
    if transport == "sse":
        sse = sse_client(f"{url}/sse", headers, timeout=DEADLINE, sse_read_timeout=5 * DEADLINE)
        async with Client(sse, mode=mode) as client:
            yield client
        return
    async with (
        httpx2.AsyncClient(headers=headers, timeout=ENDLESS) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http), mode=mode) as client,
    ):
        yield client


@dataclass(frozen=True)
class Post:
    """What a backend received."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]


class FakeBackend:
    """A real HTTP server in the backend's place; `status` is its answer, and it can be away."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.posts: list[Post] = []
        self.status = 204
        self.statuses: dict[str, int] = {}
        self._changed = threading.Condition()
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        backend = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status = backend.statuses.get(body["message"], backend.status)
                with backend._changed:
                    backend.posts.append(Post(self.path, dict(self.headers), body))
                    backend._changed.notify_all()
                self.send_response(status)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def stop(self) -> None:
        if self._server and self._thread:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join(DEADLINE)
            self._server = None

    @property
    def messages(self) -> list[str]:
        """The messages received."""
        return [post.body["message"] for post in self.posts]

    def wait_for(self, count: int) -> list[str]:
        """The messages received, when there are that many."""
        return self.wait_until(lambda: len(self.posts) >= count)

    def wait_until(self, condition: Callable[[], bool]) -> list[str]:
        """The messages received, when it is so."""
        with self._changed:
            assert self._changed.wait_for(condition, DEADLINE), self.posts
            return self.messages
