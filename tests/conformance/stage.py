"""The everything-server, directly and behind a gateway that shows it to everybody unchanged."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.gateway.harness import PATIENCE, PROJECT, Gateway, open_gateway
from tests.ports import reserve

EVERYTHING = PROJECT / "tests" / "programs" / "everything.py"
Behind = Literal["http", "sse", "stdio"]


@dataclass(frozen=True, slots=True)
class Stage:
    """Two URLs that should be the same to a client."""

    direct: str
    through: str
    behind: Behind
    gateway: Gateway


@contextlib.contextmanager
def everything(log: Path) -> Iterator[int]:
    """The port of a running everything-server."""
    with reserve() as port, log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(EVERYTHING), "--transport", "http", "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        try:
            _wait(process, f"http://127.0.0.1:{port}/health", log)
            yield port
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            finally:
                process.kill()
                process.wait()


@contextlib.contextmanager
def stage(folder: Path, keys: Path, behind: Behind) -> Iterator[Stage]:
    """The server, and a gateway that reaches it over `behind`.

    Over stdio the gateway has a process of its own, the same program: the tool can only be pointed
    at a URL.
    """
    with everything(folder / "everything.log") as port, open_gateway(folder, keys) as gateway:
        gateway.servers["everything"] = {"prefix": "", **_entry(behind, port)}
        gateway.settings["anonymous"] = "tester"
        gateway.start()
        yield Stage(f"http://127.0.0.1:{port}/mcp", gateway.url(), behind, gateway)


def _entry(behind: Behind, port: int) -> dict[str, Any]:
    """How the config names the server."""
    if behind == "stdio":
        return {"command": "python", "args": [str(EVERYTHING)], "sessions": "per_client"}
    path = "/sse" if behind == "sse" else "/mcp"
    return {"type": behind, "url": f"http://127.0.0.1:{port}{path}"}


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=PATIENCE):  # noqa: S310
            return
        said = log.read_text(errors="replace")
        assert process.poll() is None, f"the server has ended\n{said}"
        assert time.monotonic() < deadline, f"the server is not up\n{said}"
        time.sleep(0.05)
