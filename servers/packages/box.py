"""The sandbox that installs packages: bubblewrap, one writable folder, one way out.

Above: `uv` says what runs in it. The program inside gets no network but its own loopback, on which
it makes a listening socket and hands that out; whoever serves it decides where connections go. The
installer itself comes in as an open file, so nothing of the host is shown for its sake.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
import psutil

if sys.platform != "linux":
    raise ImportError("bubblewrap is a program of Linux")

from servers.sandboxing import cgroup, seccomp
from servers.sandboxing.bubblewrap import (
    SANDBOX_UID,
    Interpreter,
    Word,
    as_nobody,
    system_mounts,
)
from servers.sandboxing.outcome import MIB, Limits
from servers.sandboxing.text import decode

_LIMITS = Limits(memory=1024 * MIB, processes=128, cpus=2.0)
_SCRATCH = 256 * MIB
_OUTPUT = 8 * MIB
_COMPLAINT = 64 * 1024
_START_SECONDS = 60.0
_END_SECONDS = 60.0
_CHUNK = 65536
_OPEN_FILES = 1024
_ADDRESS_SPACE = 4096 * MIB
"""For each process: where there is no control group it is all that bounds memory."""

_INSIDE = """
import os, resource, socket, sys
door, program, size, files, memory = map(int, sys.argv[1:6])
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
door = socket.socket(fileno=door)
listener = socket.create_server(("127.0.0.1", 0), backlog=128)
socket.send_fds(door, [b"x"], [listener.fileno()])
if door.recv(1) != b"x":
    sys.exit("the installation was called off")
environment = dict(os.environ, ALL_PROXY="socks5h://127.0.0.1:%d" % listener.getsockname()[1])
door.close()
listener.close()
os.execve(program, sys.argv[6:], environment)
"""


class BoxBroken(Exception):
    """The sandbox did not come up; the message says what the machine said."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to run: the words after the program's name, and what it reads on standard input.

    `folder` is shown, writable, at /target; `file_size` is bytes, `timeout` seconds.
    """

    words: tuple[str, ...]
    input: bytes = b""
    folder: Path | None = None
    file_size: int = _SCRATCH
    timeout: float = 60.0


@dataclass(frozen=True, slots=True)
class Ran:
    """How a job ended; `exit_code` is None where its time was up."""

    exit_code: int | None
    stdout: bytes
    stderr: str


Serve = Callable[[socket.socket], AbstractAsyncContextManager[None]]
"""Serves the listening socket that the job connects to, and closes it."""


@dataclass(frozen=True, slots=True)
class Box:
    """Runs `program` in sandboxes; `certificates` are what it trusts, in PEM.

    `scope`: systemd is asked for the control group of each run, and `groups` are not looked at.
    """

    bwrap: str
    interpreter: Interpreter
    groups: cgroup.Groups | None
    program: Path
    certificates: bytes | None
    scope: bool = False
    limits: Limits = _LIMITS

    def makes_bytecode_for(self, python: str) -> bool:
        """Whether its Python is of that version, such as 3.11."""
        return Path(self.interpreter.path).name == f"python{python}"

    async def run(self, job: Job, serve: Serve) -> Ran:
        """Run a job to its end; cancelling kills every process of it before this returns.

        Raises BoxBroken when the sandbox did not come up.
        """
        with ExitStack() as ours:
            door, process = self._start(job, ours)
            async with self._ended(process) as exited:
                with anyio.move_on_after(job.timeout) as scope:
                    with await _listener(door, process) as listener:
                        async with self._limited(process), serve(listener):
                            door.send(b"x")
                            out, err = await _heard(process)
                if scope.cancelled_caught:
                    return Ran(None, b"", "")
                with anyio.fail_after(_END_SECONDS):
                    await anyio.wait_readable(exited)
            return Ran(process.wait(), out, decode(err).strip())

    def _start(self, job: Job, ours: ExitStack) -> tuple[socket.socket, subprocess.Popen[bytes]]:
        door, theirs = socket.socketpair()
        ours.enter_context(door)
        door.setblocking(False)
        with theirs, ExitStack() as inherited:
            files = _Files(
                program=_opened(inherited, self.program),
                filter=_memory_file(inherited, seccomp.bpf()),
                certificates=_memory_file(inherited, self.certificates or b""),
            )
            command = as_nobody([self.bwrap, *self._words(job, files, theirs.fileno())])
            process = subprocess.Popen(
                cgroup.scoped(command) if self.scope else command,
                stdin=_memory_file(inherited, job.input),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={"PATH": "/usr/local/bin:/usr/bin:/bin"},
                cwd="/",
                pass_fds=(theirs.fileno(), files.program, files.filter, files.certificates),
            )
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                os.set_blocking(stream.fileno(), False)
                ours.callback(stream.close)
        return door, process

    def _words(self, job: Job, files: _Files, door: int) -> list[Word]:
        environment = {"HOME": "/tmp", "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}  # noqa: S108
        if self.certificates:
            environment["SSL_CERT_FILE"] = "/etc/certificates.pem"
        if self.interpreter.shared:
            environment["LD_LIBRARY_PATH"] = self.interpreter.shared
        numbers = (door, files.program, job.file_size, _OPEN_FILES, _ADDRESS_SPACE)
        return [
            *("--unshare-all", "--unshare-user", "--die-with-parent", "--new-session"),
            *("--uid", str(SANDBOX_UID), "--gid", str(SANDBOX_UID), "--hostname", "installer"),
            *("--cap-drop", "ALL"),
            *system_mounts(),
            *(w for at, shown in self.interpreter.mounts for w in ("--ro-bind", at, shown)),
            *("--perms", "0444", "--ro-bind-data", str(files.certificates)),
            "/etc/certificates.pem",
            *("--proc", "/proc", "--dev", "/dev"),
            *("--perms", "1777", "--size", str(_SCRATCH), "--tmpfs", "/tmp"),  # noqa: S108
            *(("--bind", job.folder, "/target") if job.folder else ()),
            *("--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp"),  # noqa: S108
            *(word for item in environment.items() for word in ("--setenv", *item)),
            *("--seccomp", str(files.filter)),
            *("--", self.interpreter.path, "-I", "-c", _INSIDE, *map(str, numbers)),
            *(self.program.name, *job.words),
        ]

    @asynccontextmanager
    async def _limited(self, process: subprocess.Popen[bytes]) -> AsyncIterator[None]:
        """Put it into a control group of its own; the program in it waits for our word."""
        groups = cgroup.of_scope(process.pid) if self.scope else self.groups
        if groups is None:
            yield
            return
        group = groups.make(self.limits)
        try:
            _put_in(group, process)
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await group.remove()

    @asynccontextmanager
    async def _ended(self, process: subprocess.Popen[bytes]) -> AsyncIterator[int]:
        """A pidfd of it; whatever happens, every process of the sandbox is gone when this ends."""
        exited = os.pidfd_open(process.pid)
        try:
            yield exited
        finally:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(exited, signal.SIGKILL)
            with anyio.CancelScope(shield=True), anyio.move_on_after(_END_SECONDS):
                await anyio.wait_readable(exited)
                process.wait()  # it has ended
                await _heard(process)  # its pipes end with the last process inside
            os.close(exited)


@dataclass(frozen=True, slots=True)
class _Files:
    program: int
    filter: int
    certificates: int


def _opened(stack: ExitStack, path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY)
    stack.callback(os.close, descriptor)
    return descriptor


def _memory_file(stack: ExitStack, data: bytes) -> int:
    descriptor = os.memfd_create("mcpcp")
    stack.callback(os.close, descriptor)
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


async def _listener(door: socket.socket, process: subprocess.Popen[bytes]) -> socket.socket:
    with anyio.move_on_after(_START_SECONDS):
        await anyio.wait_readable(door)
        _, descriptors, _, _ = socket.recv_fds(door, 1, 1)
        if descriptors:
            return socket.socket(fileno=descriptors[0])
    process.kill()
    _, complaint = await _heard(process)
    raise BoxBroken(decode(complaint[:2000]).strip() or "it said nothing")


def _put_in(group: cgroup.Group, process: subprocess.Popen[bytes]) -> None:
    """Every process there is so far: the program waits for our word and starts none."""
    with suppress(psutil.NoSuchProcess, ProcessLookupError):
        for child in psutil.Process(process.pid).children(recursive=True):
            group.add(child.pid)


async def _heard(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """All of both streams, up to their caps; what comes beyond is dropped."""
    out, err = bytearray(), bytearray()
    async with anyio.create_task_group() as tasks:
        if process.stdout is not None and process.stderr is not None:
            tasks.start_soon(_read, process.stdout.fileno(), out, _OUTPUT)
            tasks.start_soon(_read, process.stderr.fileno(), err, _COMPLAINT)
    return bytes(out), bytes(err)


async def _read(descriptor: int, into: bytearray, most: int) -> None:
    while True:
        await anyio.wait_readable(descriptor)
        data = os.read(descriptor, _CHUNK)
        if not data:
            return
        into += data[: most - len(into)]
