"""A bubblewrap process: started with nothing of ours, held, released, heard out, ended.

Plain descriptors and `subprocess`, because uvloop can't start a process as another user.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import anyio

from servers.sandboxing.exchange import Capture, Exchange
from servers.sandboxing.outcome import SandboxBroken
from servers.sandboxing.text import decode

if sys.platform != "linux":
    raise ImportError("only Linux has this")

SANDBOX_UID = 65534
"""Who the code is: root in a user namespace would still be root to files like core_pattern."""

_START_SECONDS = 10.0
_END_SECONDS = 5.0
_CHUNK = 65536
_PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True, slots=True)
class Descriptors:
    """What bubblewrap inherits beside the standard streams; none of it reaches the code."""

    seccomp: int
    info: int
    block: int


Command = Callable[[Descriptors], list[str]]


@dataclass(frozen=True, slots=True)
class Child:
    """A sandbox that exists and waits for `release`; `init` is its first process, seen from here.

    The other fields are descriptors of ours; `init_exit` and `exit` are pidfds.
    """

    init: int
    init_exit: int
    exit: int
    block: int
    stdin: int
    stdout: int
    stderr: int

    def release(self) -> None:
        """Let the program inside start."""
        with suppress(BrokenPipeError):  # it gave up, and will be heard out
            os.write(self.block, b"x")

    async def converse(self, exchange: Exchange, timeout: float) -> bool:
        """Feed and read until it ends, floods or the time is up; True for the last."""
        with anyio.move_on_after(timeout) as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_write, self.stdin, exchange.input())
                tasks.start_soon(self._read, self.stdout, exchange.stdout, exchange)
                tasks.start_soon(self._read, self.stderr, exchange.stderr, exchange)
        return scope.cancelled_caught

    async def _read(self, descriptor: int, capture: Capture, exchange: Exchange) -> None:
        """To the end of the stream, which comes when the last process of the sandbox is gone."""
        while not exchange.flooded:
            await anyio.wait_readable(descriptor)
            data = os.read(descriptor, _CHUNK)
            if not data:
                return
            capture.add(data)
        self.kill()

    def kill(self) -> None:
        """End every process of the sandbox: the kernel kills them with the first one."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.init_exit, signal.SIGKILL)


async def _write(descriptor: int, data: bytes) -> None:
    """Until all is written, or nobody is there to read it; the pipe stays open."""
    view = memoryview(data)
    with suppress(BrokenPipeError):
        while view:
            await anyio.wait_writable(descriptor)
            view = view[os.write(descriptor, view) :]


@asynccontextmanager
async def started(command: Command, bpf: bytes) -> AsyncIterator[Child]:
    """A sandbox that is there and has not started its program; ended and reaped on the way out.

    Raises SandboxBroken when bubblewrap gives up before that.
    """
    with ExitStack() as ours:
        info, block, process = _popen(command, bpf, ours)
        exit_ = _owned(ours, os.pidfd_open(process.pid))
        pidfds = [exit_]
        try:
            init = await _init_pid(info, process)
            init_exit = _owned(ours, _pidfd(init, process))
            pidfds.append(init_exit)
            yield Child(init, init_exit, exit_, block, *_streams(process))
        finally:
            with anyio.CancelScope(shield=True):
                await _end(process, pidfds)


def _popen(
    command: Command, bpf: bytes, ours: ExitStack
) -> tuple[int, int, subprocess.Popen[bytes]]:
    """Our ends of the two pipes and the process, whose environment its sandbox could read."""
    info, their_info = os.pipe()
    their_block, block = os.pipe()
    _owned(ours, info)
    _owned(ours, block)
    with ExitStack() as theirs:
        _owned(theirs, their_info)
        _owned(theirs, their_block)
        descriptors = Descriptors(_memory_file(theirs, bpf), their_info, their_block)
        identity = SANDBOX_UID if os.geteuid() == 0 else None
        process = subprocess.Popen(
            command(descriptors),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": _PATH},
            cwd="/",
            user=identity,
            group=identity,
            extra_groups=None if identity is None else [],
            pass_fds=(descriptors.seccomp, their_info, their_block),
        )
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            ours.callback(stream.close)
    return info, block, process


def _owned(stack: ExitStack, descriptor: int) -> int:
    stack.callback(os.close, descriptor)
    return descriptor


def _memory_file(stack: ExitStack, data: bytes) -> int:
    descriptor = _owned(stack, os.memfd_create("seccomp"))
    os.write(descriptor, data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _streams(process: subprocess.Popen[bytes]) -> tuple[int, int, int]:
    numbers = [s.fileno() for s in (process.stdin, process.stdout, process.stderr) if s is not None]
    for number in numbers:
        os.set_blocking(number, False)
    stdin, stdout, stderr = numbers
    return stdin, stdout, stderr


async def _init_pid(info: int, process: subprocess.Popen[bytes]) -> int:
    """What bubblewrap says on its info pipe: {"child-pid": N, ...}."""
    text = b""
    with anyio.move_on_after(_START_SECONDS):
        while b"}" not in text:
            await anyio.wait_readable(info)
            data = os.read(info, _CHUNK)
            if not data:
                break
            text += data
    try:
        return int(json.loads(text)["child-pid"])
    except (ValueError, KeyError):
        raise SandboxBroken(_complaint(process)) from None


def _pidfd(init: int, process: subprocess.Popen[bytes]) -> int:
    try:
        return os.pidfd_open(init)
    except ProcessLookupError:  # it gave up while setting up
        raise SandboxBroken(_complaint(process)) from None


def _complaint(process: subprocess.Popen[bytes]) -> str:
    process.kill()
    _, stderr = process.communicate()
    return decode(stderr[:2000]).strip() or "bubblewrap said nothing and did not start"


async def _end(process: subprocess.Popen[bytes], pidfds: list[int]) -> None:
    for pidfd in pidfds:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    with anyio.move_on_after(_END_SECONDS):
        for pidfd in pidfds:
            await anyio.wait_readable(pidfd)
    process.poll()
