"""A real chat service for tests: `python -m mcpcp chat` before a real gateway, and its clients."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.ports import is_free, reserve

PATIENCE = 120.0
"""Seconds after which something hangs: how busy the machine is must not matter."""


class Chat:
    """One process; `settings` are its environment, beside what it needs to start."""

    def __init__(self, config: Path, port: int, environ: dict[str, str]) -> None:
        self.port = port
        self.log = config.parent / f"chat-{port}.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mcpcp", "chat", "--config", str(config), f"--port={port}"],
                cwd=config.parent,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait(self) -> None:
        """Until it serves."""
        deadline = time.monotonic() + PATIENCE
        while self.status("/health") != 200:
            assert time.monotonic() < deadline, self.text()
            assert self.process.poll() is None, self.text()
            time.sleep(0.02)

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def status(self, path: str) -> int:
        """The status of a GET; 0 where nobody answers."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=PATIENCE) as answer:  # noqa: S310
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except (OSError, http.client.HTTPException):
            return 0

    def metrics(self) -> str:
        """What Prometheus is told, with the token that it shows."""
        token = (self.log.parent / "data" / "scrape.token").read_text().strip()
        with self.client(token) as client:
            return client.get("/metrics").raise_for_status().text

    def client(self, token: str | None) -> httpx.Client:
        """A plain HTTP client that shows a token."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=PATIENCE, verify=False)  # noqa: S501

    def stop(self) -> int:
        """As the supervisor stops it; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


@contextlib.contextmanager
def open_chat(config: Path, environ: dict[str, str], **variables: str) -> Iterator[Chat]:
    """A chat service that serves; at the end it must stop in order, and leave no error behind."""
    bare = {k: v for k, v in environ.items() if not k.startswith(("LLM_", "OPENAI_", "MCP"))}
    with reserve() as port:
        chat = Chat(config, port, {**bare, **variables})
        try:
            chat.wait()
            yield chat
            assert chat.stop() == 0, chat.text()
            assert "Traceback" not in chat.text(), chat.text()
            assert is_free(port)
        finally:
            chat.process.kill()
            chat.process.wait()


def messages(text: str) -> list[dict[str, str]]:
    """A conversation's first message."""
    return [{"role": "user", "content": text}]


def ask(client: httpx.Client, text: str = "Go on", **more: Any) -> Any:
    """The whole answer of /chat."""
    answer = client.post("/chat", json={"messages": messages(text), **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


@contextlib.contextmanager
def asking(chat: Chat, token: str, path: str, body: Any) -> Iterator[None]:
    """A request that is under way; who asked leaves at the end, without waiting for the answer."""
    caller = http.client.HTTPConnection("127.0.0.1", chat.port, timeout=PATIENCE)
    try:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        caller.request("POST", path, json.dumps(body), headers)
        yield
    finally:
        caller.close()


def until_seen(client: httpx.Client, **states: str) -> httpx.Response:
    """The answer of /ready once each dependency is seen in that state.

    A dependency that is slow to answer is told to be, and looked at again.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        answer = client.get("/ready")
        seen = {name: found["state"] for name, found in answer.json()["dependencies"].items()}
        if seen | states == seen:
            return answer
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.1)


def events_of(answer: httpx.Response) -> Iterator[tuple[str, Any]]:
    """The events of a stream as they come."""
    name = ""
    for line in answer.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def stream(client: httpx.Client, text: str = "Go on", **more: Any) -> list[tuple[str, Any]]:
    """Every event of a streamed answer."""
    body = {"messages": messages(text), "stream": True, **more}
    with client.stream("POST", "/chat", json=body) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"] == "text/event-stream"
        return list(events_of(answer))


def environment() -> dict[str, str]:
    """Ours, without what would reach a chat service by accident."""
    return dict(os.environ)
