"""The real shop for tests: its database as a process, and its servers in a fleet."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fleet import PROJECT, CallFailed, Fleet
from tests.ports import reserve

DATABASE = PROJECT / "servers" / "shop_database.py"
SERVERS = ("shop_auth", "shop_buyer", "shop_seller")
PASSWORD = "correct horse"
PATIENCE = 120.0
"""Seconds after which something hangs: how busy the machine is must not matter."""
QUICK = {"slow_retry": "1s", "max_backoff": "0.3s", "stable_after": "0.1s"}
"""For processes that are killed again and again."""


@dataclass
class Database:
    """One embedded database, which can be killed, halted, filled up, and come back."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def uri(self) -> str:
        return f"mongodb://127.0.0.1:{self.port}"

    def start(self, most_bytes: int | None = None) -> None:
        """Start it, and wait until it accepts; `most_bytes`: no file of it grows beyond that."""

        def limit() -> None:
            if most_bytes is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

        self.process = subprocess.Popen(
            [
                sys.executable,
                str(DATABASE),
                "--data-dir",
                str(self.folder),
                "--port",
                str(self.port),
            ],
            stderr=subprocess.DEVNULL,
            preexec_fn=limit,
        )
        until_open(self.port)

    def kill(self) -> None:
        """As a power cut would, but for the disk."""
        if self.process:
            self.process.kill()
            self.process.wait(PATIENCE)
            self.process = None

    def halt(self) -> None:
        """It hangs from here on: connections stay open, and nothing is answered."""
        assert self.process
        os.kill(self.process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)  # a signal takes effect in its own time

    def go_on(self) -> None:
        assert self.process
        os.kill(self.process.pid, signal.SIGCONT)

    def stop(self) -> int:
        """Ask it to end; its exit code."""
        assert self.process
        self.process.terminate()
        code = self.process.wait(PATIENCE)
        self.process = None
        return code


def until_open(port: int) -> None:
    """Return when somebody accepts connections there."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), PATIENCE).close()
        except OSError:
            assert time.monotonic() < deadline, f"nobody listens on {port}"
            time.sleep(0.02)
        else:
            return


@contextlib.contextmanager
def open_database(folder: Path) -> Iterator[Database]:
    """A database that runs, and is gone at the end."""
    with reserve() as port:
        database = Database(folder / "mongo", port)
        database.start()
        try:
            yield database
        finally:
            database.kill()


def add_shop(fleet: Fleet, **settings: str) -> int:
    """Give the fleet the shop's servers and their database, whose port is returned."""
    port = fleet.port()
    fleet.servers["shop_db"] = {
        "type": "service",
        "command": "python",
        "args": [str(DATABASE), "--port", "{port}", "--data-dir", str(fleet.folder / "data/mongo")],
        "port": port,
        "restart": QUICK,
    }
    env = {"MONGODB_URI": f"mongodb://127.0.0.1:{port}", **settings}
    for name in SERVERS:
        script = PROJECT / "servers" / f"{name}.py"
        fleet.add(name, script, type="http", env=env, depends_on=["shop_db"], restart=QUICK)
    return port


@dataclass(frozen=True)
class Customer:
    """Somebody who is signed in at a fleet's shop."""

    fleet: Fleet
    session: str

    def buy(self, tool: str, /, **arguments: Any) -> Any:
        """A tool of shop_buyer."""
        return self.fleet.call(f"shop_buyer_{tool}", session=self.session, **arguments)

    def sell(self, tool: str, /, **arguments: Any) -> Any:
        """A tool of shop_seller."""
        return self.fleet.call(f"shop_seller_{tool}", session=self.session, **arguments)


def again(fleet: Fleet, ask: Callable[[], Any]) -> Any:
    """The first answer of a shop whose database was away, and told whoever asked to try again."""

    def tried() -> list[Any]:
        try:
            return [ask()]
        except CallFailed as failure:
            assert "database" in str(failure)
            return []

    return fleet.until(tried, "the shop answers again")[0]


def customer(fleet: Fleet, role: str, name: str = "Ada") -> Customer:
    """A new account, signed in."""
    email = f"{name.lower()}-{role}@example.com"
    fleet.call("shop_auth_register_user", name=name, email=email, password=PASSWORD, role=role)
    found = fleet.call("shop_auth_login_user", email=email, password=PASSWORD)
    return Customer(fleet, found["session"])
