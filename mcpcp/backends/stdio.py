"""stdio: the server is a child of ours, one message a line."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from mcpcp.backends.transports import Fail, Receive
from mcpcp.errors import Unavailable
from mcpcp.jsonrpc import Message, RpcError, decode_reply, encode

logger = logging.getLogger(__name__)

LONGEST_LINE: Final = 64 * 1024 * 1024
STOP_TIMEOUT: Final = 2.0
LAST_OUTPUT: Final = 0.2
"""Seconds for what a dead server wrote last: a child of its own may hold its pipes open."""

if sys.platform == "win32":
    _KILL: Final = signal.SIGTERM
else:
    _KILL: Final = signal.SIGKILL


class _ChildProtocol(asyncio.subprocess.SubprocessStreamProtocol):
    """Tells of the child's exit at once: `Process.wait` may wait for its pipes as well, and those
    a grandchild can hold open for ever."""

    def __init__(self, exited: asyncio.Event, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit=LONGEST_LINE, loop=loop)
        self._exited = exited

    def process_exited(self) -> None:
        super().process_exited()
        self._exited.set()


class StdioTransport:
    """A server process, from its start to its end; its stderr goes to our log, line by line."""

    def __init__(
        self, name: str, argv: tuple[str, ...], env: Mapping[str, str], cwd: Path | None
    ) -> None:
        self._name = name
        self._argv = argv
        self._env = dict(env)
        self._cwd = cwd
        self._process: asyncio.subprocess.Process | None = None
        self._exited = asyncio.Event()
        self._last_words = ""

    @property
    def pid(self) -> int | None:
        """The server's process, while it runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def run(self, ready: Callable[[], None], receive: Receive, fail: Fail) -> None:
        """See BackendTransport."""
        child, self._process = await self._start()
        process = self._process
        try:
            async with asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(self._read(process, receive))
                errors = tasks.create_task(self._log_errors(process))
                ready()
                try:
                    await _until_over(reading, errors, self._exited)
                finally:
                    await self._stop(process)
                    reading.cancel()
                    errors.cancel()
        finally:
            _signal_group(process, _KILL)
            child.close()
        raise Unavailable(self._describe_end(process))

    async def send(self, message: Message) -> None:
        """See BackendTransport; waits while the server does not read."""
        stdin = self._stdin()
        if stdin is None:
            raise Unavailable("the server is not running")
        stdin.write(encode(message) + b"\n")
        if stdin.transport.get_write_buffer_size():
            with contextlib.suppress(ConnectionError):  # its end is noticed, and told, by `run`
                await stdin.drain()

    def send_soon(self, message: Message) -> None:
        """See BackendTransport."""
        stdin = self._stdin()
        if stdin is not None:
            stdin.write(encode(message) + b"\n")

    def abandon(self, request_id: int) -> None:
        """Nothing to do: answers share one stream."""

    def negotiated(self, version: str) -> None:
        """Nothing depends on the version here."""

    def _stdin(self) -> asyncio.StreamWriter | None:
        if self._process is None or self._process.stdin is None or self._process.stdin.is_closing():
            return None
        return self._process.stdin

    async def _start(self) -> tuple[asyncio.SubprocessTransport, asyncio.subprocess.Process]:
        self._exited = exited = asyncio.Event()
        loop = asyncio.get_running_loop()
        try:
            child, protocol = await loop.subprocess_exec(
                lambda: _ChildProtocol(exited, loop),
                *self._argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=self._env,
                cwd=self._cwd,
                start_new_session=True,
            )
        except OSError as error:
            reason = f"cannot start {self._argv[0]}: {error.strerror or error}"
            raise Unavailable(reason) from None
        return child, asyncio.subprocess.Process(child, protocol, loop)

    async def _read(self, process: asyncio.subprocess.Process, receive: Receive) -> None:
        assert process.stdout is not None  # noqa: S101  (it was opened as a pipe)
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:
                logger.warning("%s sent a line of more than %d bytes", self._name, LONGEST_LINE)
                return
            if not line:
                return
            if line.strip():
                self._receive_line(line, receive)

    def _receive_line(self, line: bytes, receive: Receive) -> None:
        try:
            receive(decode_reply(line))
        except RpcError:
            logger.warning("%s wrote a line that is no JSON: %.200r", self._name, line)

    async def _log_errors(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None  # noqa: S101  (it was opened as a pipe)
        while True:
            try:
                line = await process.stderr.readline()
            except ValueError:
                continue  # longer than any line may be: that piece was dropped
            if not line:
                return
            self._last_words = line.decode(errors="replace").strip()[:500] or self._last_words
            logger.info("%s | %s", self._name, self._last_words)

    async def _stop(self, process: asyncio.subprocess.Process) -> None:
        """End of input first, as the specification says; TERM, deadline, KILL to the group."""
        if process.stdin is not None:
            process.stdin.close()
        for deadline, number in ((STOP_TIMEOUT / 2, signal.SIGTERM), (STOP_TIMEOUT, None)):
            try:
                async with asyncio.timeout(deadline):
                    await self._exited.wait()
                    return
            except TimeoutError:
                if number is not None:
                    _signal_group(process, number)
        _signal_group(process, _KILL)
        await self._exited.wait()

    def _describe_end(self, process: asyncio.subprocess.Process) -> str:
        code = process.returncode
        if code is not None and code < 0:
            how = f"was ended by signal {signal.Signals(-code).name}"
        else:
            how = f"exited with code {code}"
        return f"the server {how}" + (f": {self._last_words}" if self._last_words else "")


async def _until_over(
    reading: asyncio.Task[None], errors: asyncio.Task[None], exited: asyncio.Event
) -> None:
    """Until the server has ended, or says no more; what it wrote last is read still."""
    async with asyncio.TaskGroup() as tasks:
        exit_ = tasks.create_task(exited.wait())
        await asyncio.wait((reading, exit_), return_when=asyncio.FIRST_COMPLETED)
        exit_.cancel()
    await asyncio.wait((reading, errors), timeout=LAST_OUTPUT)


def _signal_group(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Signal the server and what it started; those who left their group are the supervisor's."""
    try:
        if sys.platform == "win32":
            process.terminate()
        else:
            os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        pass
