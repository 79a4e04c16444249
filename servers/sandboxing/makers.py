"""The host's half of `inside.maker`: starts it, asks it for sandboxes, ends it.

Above: `bubblewrap`. A maker that ends takes all its sandboxes along: it is process 1 of a pid
namespace that holds theirs.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import anyio

from servers.sandboxing.outcome import Limits, SandboxBroken
from servers.sandboxing.sockets import SocketLink
from servers.sandboxing.text import decode
from servers.sandboxing.transcript import Transcript

if sys.platform != "linux":
    raise ImportError("only Linux has this")

logger = logging.getLogger(__name__)

# these only tell what hangs from what is slow: a maker that is given up takes its sandboxes along
_START_SECONDS = 120.0
_MAKE_SECONDS = 60.0
_END_SECONDS = 30.0
_LONGEST_WORD = 1 << 18
_COMPLAINT = 4000
_CREDENTIALS = struct.Struct("3i")
_PATH = "/usr/local/bin:/usr/bin:/bin"


class MakerGone(SandboxBroken):
    """The maker has ended, or hangs: another one may do better."""


class Lost(SandboxBroken):
    """A sandbox was killed in the making, alone or with its maker, which may not show it yet."""


@dataclass(frozen=True, slots=True)
class Sandboxed:
    """A sandbox that waits for its request; `init` is a pidfd of its first process `pid`."""

    link: SocketLink
    pid: int
    init: int

    @property
    def alive(self) -> bool:
        """Whether its first process has not ended."""
        return not _has_ended(self.init)

    def kill(self) -> None:
        """End every process of it: the kernel kills them with the first one."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.init, signal.SIGKILL)

    async def discard(self) -> None:
        """Kill it, wait until it is gone, let go of it."""
        self.kill()
        with anyio.move_on_after(_END_SECONDS) as waiting:
            await anyio.wait_readable(self.init)
        if waiting.cancelled_caught:
            logger.warning("a sandbox does not end", extra={"pid": self.pid})
        self.link.close()
        os.close(self.init)


class Maker:
    """A process that makes sandboxes; `start` is the way to one."""

    def __init__(
        self, process: subprocess.Popen[bytes], control: socket.socket, complaints: int
    ) -> None:
        self._process = process
        self._control = control
        self._complaints = complaints
        self._exit = os.pidfd_open(process.pid)
        self.imported: tuple[str, ...] = ()

    @classmethod
    async def start(cls, command: Sequence[str], plan: Mapping[str, Any]) -> Maker:
        """Start the command, whose standard input will be the way to the maker in it.

        From the main thread: the kernel ends it with the thread that started it. Raises
        SandboxBroken with what the command said.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        complaints = os.memfd_create("complaints")  # a pipe would want a reader
        try:
            with theirs:
                process = _started(command, theirs.fileno(), complaints)
        except OSError as e:
            ours.close()
            os.close(complaints)
            raise SandboxBroken(f"the sandbox's maker can't be started: {e}") from e
        ours.setblocking(False)
        maker = cls(process, ours, complaints)
        try:
            await maker._greet(plan)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await maker.stop()
            raise
        return maker

    async def _greet(self, plan: Mapping[str, Any]) -> None:
        self._control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LONGEST_WORD)
        self._control.send(json.dumps(plan).encode())
        with anyio.move_on_after(_START_SECONDS):
            await anyio.wait_readable(self._control)
            with suppress(OSError, ValueError, KeyError):
                self.imported = tuple(json.loads(self._control.recv(_LONGEST_WORD))["imported"])
                return
        raise SandboxBroken(self._complaint() or "the sandbox's maker did not start")

    def _complaint(self) -> str:
        size = os.fstat(self._complaints).st_size
        text = os.pread(self._complaints, _COMPLAINT, max(size - _COMPLAINT, 0))
        lines = decode(text).strip().splitlines()
        return lines[-1] if lines else ""

    @property
    def pid(self) -> int:
        """Of the outermost process, in our namespace."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can make more."""
        return not _has_ended(self._exit)

    async def make(self, mounts: Mapping[str, str]) -> Sandboxed:
        """A new sandbox with these file systems in memory (path: options).

        Raises SandboxBroken; MakerGone or Lost where it is not the sandbox's own fault.
        """
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        link = SocketLink(ours)
        try:
            with theirs:
                request = json.dumps({"mounts": mounts}).encode()
                socket.send_fds(self._control, [request], [theirs.fileno()])
            with anyio.fail_after(_MAKE_SECONDS):
                pid = await _first_words(ours)
            return Sandboxed(link, pid, os.pidfd_open(pid))
        except (OSError, TimeoutError) as e:
            link.close()
            raise MakerGone(f"the sandbox's maker makes none: {e}") from e
        except BaseException:
            link.close()
            raise

    async def stop(self) -> None:
        """End it and all that it made."""
        self._control.close()
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._exit, signal.SIGKILL)
        with anyio.move_on_after(_END_SECONDS):
            await anyio.wait_readable(self._exit)
        self._process.poll()
        os.close(self._exit)
        os.close(self._complaints)


def _started(command: Sequence[str], stdin: int, stderr: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=stdin,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        env={"PATH": _PATH},
        cwd="/",
    )


async def _first_words(end: socket.socket) -> int:
    """Wait for the greeting; the sender's pid as the kernel knows it, in our namespace."""
    transcript = Transcript(Limits())
    pid = 0
    while not transcript.hello:
        await anyio.wait_readable(end)
        data, ancillary, _, _ = end.recvmsg(_LONGEST_WORD, socket.CMSG_SPACE(_CREDENTIALS.size))
        if not data:
            if transcript.complaint is not None:
                raise SandboxBroken(transcript.complaint)
            raise Lost("the sandbox ended before it was ready")
        pid = _sender(ancillary) or pid
        transcript.feed(data)
    return pid


def _sender(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            return int(_CREDENTIALS.unpack(data[: _CREDENTIALS.size])[0])
    return None


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
