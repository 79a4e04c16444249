"""How a server gets started: forked from the zygote where that is the same thing, else spawned."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import struct
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mcpcp.errors import FleetError
from mcpcp.processes import NAME_MARK, Launch, children, kill, name_mark, spawn
from mcpcp.supervisor.reaper import Reaper

logger = logging.getLogger(__name__)

PRELOADED: Final = (
    "asyncio",
    "mcp.server.mcpserver",
    "mcp.server.sse",
    "mcp.server.streamable_http_manager",
    "uvicorn",
    "uvicorn.lifespan.on",
    "uvicorn.loops.auto",
    "uvicorn.protocols.http.httptools_impl",
    "uvloop",
    "sse_starlette",
    "starlette.applications",
    "prometheus_client",
    "httpx",
    "httpx2",
    "orjson",
    "docker",
    "zoneinfo",
)
"""What Python tool servers import most; given as names, because mcpcp itself imports none of it."""

INTERPRETER_VARIABLES: Final = ("PYTHON", "LD_", "TZ", "LANG", "LC_", "MALLOC_", "GLIBC_")
"""Read once, when a process starts: a fork can't be given other ones."""

KEPT_FOR_ZYGOTE: Final = ("PATH", "HOME", "USER", "TMPDIR", "VIRTUAL_ENV")
WARM_UP: Final = 60.0
FORK_TIMEOUT: Final = 10.0
"""Seconds in which a zygote forks, however slow the machine is: another spawn would not help it."""
ZYGOTE: Final = "zygote"


@dataclass(frozen=True, slots=True)
class Child:
    """A process that was started: `ended` becomes its exit code."""

    pid: int
    ended: asyncio.Future[int]
    forked: bool


def is_forkable(argv: tuple[str, ...], env: Mapping[str, str], base: Mapping[str, str]) -> bool:
    """Whether a fork of our own interpreter is the same as running `argv` with `env`."""
    if sys.platform != "linux" or len(argv) < 2:
        return False
    ours = os.path.abspath(argv[0]) == os.path.abspath(sys.executable)  # noqa: PTH100 (no links)
    names = {n for n in (*env, *base) if n.startswith(INTERPRETER_VARIABLES)}
    same = all(env.get(n) == base.get(n) for n in names)
    runs = argv[1].endswith(".py") or (argv[1] == "-m" and len(argv) > 2)
    return ours and same and runs


class Zygote:
    """The supervisor's end of the zygote; `run` keeps one alive."""

    def __init__(
        self,
        reaper: Reaper,
        base_env: Mapping[str, str],
        cwd: Path,
        output: Callable[[], int],
        preload: tuple[str, ...] = PRELOADED,
        *,
        patience: float = FORK_TIMEOUT,
    ) -> None:
        self._reaper = reaper
        self._patience = patience
        self._preload = preload
        self._base_env = base_env
        self._cwd = cwd
        self._output = output
        self._turn = asyncio.Lock()
        self._warm = asyncio.Event()
        self._channel: socket.socket | None = None
        self._first = True
        self._retired = False
        self._packages = _packages_stamp()
        self.pid: int | None = None

    async def run(self) -> None:
        """Start the zygote, and another one whenever it has ended, until cancelled."""
        pause = 0.05
        while True:
            began = time.monotonic()
            await self._live()
            self._first = False
            self._warm.set()
            pause = 0.05 if time.monotonic() - began > 10 else min(pause * 2, 30.0)
            await asyncio.sleep(pause)

    async def _live(self) -> None:
        ours, theirs = socket.socketpair()
        self._packages = _packages_stamp()
        output = self._output()
        try:
            process = spawn(self._launch(theirs.fileno(), output))
        except FleetError as error:
            logger.warning("the zygote can't be started: %s", error)
            ours.close()
            return
        finally:
            theirs.close()
            os.close(output)
        ended = self._reaper.expect_spawned(process)
        self.pid = process.pid
        ours.setblocking(False)
        try:
            if await self._greet(ours):
                await asyncio.shield(ended)
        finally:
            self.pid = self._channel = None
            ours.close()
            kill_unless(ended, process.pid)
            self._kill_unannounced()

    async def _greet(self, channel: socket.socket) -> bool:
        try:
            async with asyncio.timeout(WARM_UP):
                greeting = await _receive(channel)
        except (OSError, EOFError, TimeoutError):
            logger.warning("the zygote did not come up: Python servers are spawned instead")
            return False
        for failure in greeting["failed"]:
            logger.debug("the zygote did not import %s", failure)
        self._channel = channel
        self._first = False
        self._warm.set()
        return True

    def _kill_unannounced(self) -> None:
        """Kill a server that the zygote forked without being able to tell us."""
        for pid in children(os.getpid()):
            if pid not in self._reaper.pids and name_mark(pid) == ZYGOTE:
                kill(pid)

    def _launch(self, descriptor: int, output: int) -> Launch:
        kept = (*INTERPRETER_VARIABLES, *KEPT_FOR_ZYGOTE)
        env = {n: v for n, v in self._base_env.items() if n.startswith(kept)}
        program = str(Path(__file__).with_name("zygote.py"))
        room = " " * 4000  # for the command lines of the servers, as ps shows them
        argv = (sys.executable, program, str(descriptor), str(os.getpid()), ",".join(self._preload))
        return Launch(
            name=ZYGOTE,
            argv=(*argv, room),
            env={**env, NAME_MARK: ZYGOTE},
            cwd=self._cwd,
            output=output,
            inherit={"MCPCP_ZYGOTE_FD": descriptor},
        )

    def retire(self) -> None:
        """Fork nothing any more: also nothing that waits for the first zygote to be warm."""
        self._retired = True
        self._warm.set()

    async def fork(self, launch: Launch) -> Child | None:
        """The server's process, or None where there is no zygote now; waits for the first one."""
        if self._first:
            await self._warm.wait()
        if self._retired:
            raise FleetError("the fleet is stopping")
        async with self._turn:
            channel = self._channel
            if channel is None:
                return None
            if self._packages != _packages_stamp():
                logger.info("installed packages have changed: starting a new zygote")
                self._abandon()
                return None
            return await self._ask(channel, launch)

    async def _ask(self, channel: socket.socket, launch: Launch) -> Child | None:
        request = {
            "name": launch.name,
            "argv": launch.argv,
            "env": dict(launch.env),
            "cwd": str(launch.cwd),
            "inherit": list(launch.inherit),
        }
        self._reaper.forget_early()
        try:
            async with asyncio.timeout(self._patience):
                await _send(channel, request, [launch.output, *launch.inherit.values()])
                answer = await _receive(channel)
        except (OSError, EOFError, TimeoutError):
            logger.warning("the zygote does not answer: spawning %s instead", launch.name)
            self._abandon()
            return None
        if "error" in answer:
            logger.warning("the zygote can't fork %s: %s", launch.name, answer["error"])
            return None
        pid = int(answer["pid"])
        return Child(pid, self._reaper.expect_forked(pid), forked=True)

    def _abandon(self) -> None:
        self._channel = None
        if self.pid is not None:
            kill(self.pid)


class Launcher:
    """Starts processes the best way there is."""

    def __init__(self, reaper: Reaper, zygote: Zygote | None, base_env: Mapping[str, str]) -> None:
        self._reaper = reaper
        self._zygote = zygote
        self._base_env = base_env

    async def start(self, launch: Launch) -> Child:
        """The new process; raises FleetError with the reason when there can be none."""
        if self._zygote is not None and is_forkable(launch.argv, launch.env, self._base_env):
            child = await self._zygote.fork(launch)
            if child is not None:
                return child
        process = spawn(launch)
        return Child(process.pid, self._reaper.expect_spawned(process), forked=False)


def kill_unless(ended: asyncio.Future[int], pid: int) -> None:
    """SIGKILL a child of ours that has not been reaped."""
    if not ended.done():
        kill(pid)


def _packages_stamp() -> tuple[int, ...]:
    """Changes when packages are installed or removed: their folders' entries do."""
    folders = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    return tuple(Path(f).stat().st_mtime_ns for f in sorted(folders) if Path(f).is_dir())


async def _send(channel: socket.socket, request: dict[str, Any], descriptors: list[int]) -> None:
    loop = asyncio.get_running_loop()
    body = json.dumps(request).encode()
    if sys.platform != "win32":
        # The descriptors ride on the length, four bytes that an idle channel takes at once.
        socket.send_fds(channel, [struct.pack("!I", len(body))], descriptors)
    await loop.sock_sendall(channel, body)


async def _receive(channel: socket.socket) -> dict[str, Any]:
    size = struct.unpack("!I", await _read_exactly(channel, 4))[0]
    answer: dict[str, Any] = json.loads(await _read_exactly(channel, size))
    return answer


async def _read_exactly(channel: socket.socket, count: int) -> bytes:
    parts = b""
    while len(parts) < count:
        part = await asyncio.get_running_loop().sock_recv(channel, count - len(parts))
        if not part:
            raise EOFError
        parts += part
    return parts
