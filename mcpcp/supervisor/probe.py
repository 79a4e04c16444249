"""Does a process serve? Asked over HTTP, or by its port alone; `GET /health` must name our pid."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Final

from mcpcp.errors import FleetError
from mcpcp.processes import belongs_to, descendants, describe, listens, port_owner

LONGEST_ANSWER: Final = 64 * 1024
FIRST_PAUSE: Final = 0.005
LONGEST_PAUSE: Final = 0.05
POLL_TIMEOUT: Final = 2.0
ANYWHERE: Final = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 (we ask there, we do not bind)


@dataclass(frozen=True, slots=True)
class Health:
    """What a server says of itself; `pid` is None where it does not say."""

    status: str = "ok"
    pid: int | None = None
    detail: str | None = None

    def __str__(self) -> str:
        return f"{self.status}: {self.detail}" if self.detail else self.status


class NotServing(Exception):
    """No answer, or not one of a healthy server."""


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to ask: `path` None means that accepting connections is enough."""

    port: int
    path: str | None
    host: str = "127.0.0.1"

    @property
    def address(self) -> str:
        """Where to reach a server that listens on `host`."""
        return "127.0.0.1" if self.host in ANYWHERE else self.host


async def ask(target: Target, timeout: float) -> Health:
    """One question; raises NotServing."""
    try:
        async with asyncio.timeout(timeout):
            answer = await _exchange(target)
    except TimeoutError:
        raise NotServing(f"no answer within {timeout:g} s") from None
    except OSError as error:
        raise NotServing(error.strerror or str(error)) from None
    return Health() if target.path is None else _read(answer)


async def _exchange(target: Target) -> bytes:
    reader, writer = await asyncio.open_connection(target.address, target.port)
    try:
        if target.path is None:
            return b""
        # HTTP/1.0: the answer ends with the connection, and is never chunked.
        writer.write(f"GET {target.path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        answer = b""
        while len(answer) < LONGEST_ANSWER and (part := await reader.read(LONGEST_ANSWER)):
            answer += part
        return answer
    finally:
        writer.transport.abort()  # all was read: nothing is left that closing would wait for


def _read(answer: bytes) -> Health:
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/"):
        raise NotServing("no HTTP answer")
    if words[1] != b"200":
        raise NotServing(f"HTTP status {words[1].decode('ascii', 'replace')}")
    try:
        said: Any = json.loads(body)
    except ValueError:
        return Health()
    if not isinstance(said, dict):
        return Health()
    pid, detail = said.get("pid"), said.get("detail")
    return Health(
        status=str(said.get("status", "ok")),
        pid=pid if isinstance(pid, int) else None,
        detail=str(detail) if detail else None,
    )


async def until_ready(target: Target, pid: int) -> Health:
    """Ask until the process `pid` itself serves; raises FleetError when somebody else does."""
    pause = FIRST_PAUSE
    while True:
        try:
            health = await ask(target, POLL_TIMEOUT)
        except NotServing:
            await asyncio.sleep(pause)
            pause = min(pause * 1.3, LONGEST_PAUSE)
            continue
        _check_who_answered(target, health, pid)
        return health


def _check_who_answered(target: Target, health: Health, pid: int) -> None:
    """Compare the pid; where the answer has none, look who listens, and believe it if unknown."""
    if health.pid is not None:
        if not belongs_to(health.pid, pid):
            raise FleetError(f"port {target.port} is answered by {describe(health.pid)}")
        return
    if any(listens(one, target.port) for one in [pid, *descendants(pid)]):
        return
    owner = port_owner(target.port)
    if owner is not None and not belongs_to(owner, pid):
        raise FleetError(f"port {target.port} is used by {describe(owner)}")
