"""A real Redis for tests: Debian's redis-server which can go and come back."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import redis

from tests.engine import absent
from tests.ports import reserve

PATIENCE = 90.0
"""Seconds after which something hangs: how busy the machine is must not matter."""


class RedisServer:
    """redis-server on loopback; what it holds outlives `stop` only where it was told to save."""

    def __init__(self, folder: Path, port: int, *, saves: bool = True, host: str = "") -> None:
        self.folder = folder
        self.port = port
        self.saves = saves
        self.host = host or "127.0.0.1"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Whoever is given it waits for a Redis that is slow: to them it would be away."""
        patience = f"socket_timeout={PATIENCE:g}&socket_connect_timeout={PATIENCE:g}"
        return f"{self.plain_url}?{patience}"

    @property
    def plain_url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    def start(self) -> None:
        """Start it; return when it answers."""
        folder = self.folder
        folder.mkdir(exist_ok=True)
        with (folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    "redis-server",
                    *("--port", str(self.port), "--bind", self.host, "--dir", str(folder)),
                    *("--save", "", "--appendonly", "yes" if self.saves else "no"),
                    # A killed Redis loses nothing that it wrote; only a killed machine would.
                    *("--appendfsync", "no", "--protected-mode", "no"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with suppress(redis.RedisError), self.client() as client:
                client.ping()
                return
            assert self.process.poll() is None, (folder / "redis.log").read_text()
            time.sleep(0.02)
        raise AssertionError((folder / "redis.log").read_text())

    def stop(self) -> None:
        """Kill it, as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(PATIENCE)

    @contextmanager
    def client(self) -> Iterator[Any]:
        """A plain client."""
        client = redis.Redis.from_url(self.url, decode_responses=True)
        try:
            yield client
        finally:
            client.close()


@contextmanager
def open_redis(folder: Path, *, saves: bool = True) -> Iterator[RedisServer]:
    """A Redis that answers; at the end it is gone."""
    if shutil.which("redis-server") is None:
        absent("redis-server")
    with reserve() as port:
        server = RedisServer(folder, port, saves=saves)
        try:
            server.start()
            yield server
        finally:
            server.stop()
