"""What a backend must prove before it runs code: real programs that try what they must not.

Above: `sandbox`. A probe that can't be run counts as failed. Processors are only reported: code
that gets more of them takes time from others, and is ended by the limits of time all the same.
"""

from __future__ import annotations

import ast
import secrets
import socket
import tempfile
from dataclasses import replace
from pathlib import Path

from servers.sandboxing.backend import UNLIMITED, Backend, run_once
from servers.sandboxing.conversation import Job
from servers.sandboxing.outcome import MIB, Limits, SandboxBroken

_SECONDS = 60.0
"""For a probe: a machine that is slow is no weakness."""
_MEMORY = 64 * MIB


_PROBES = """
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
found = []

def works(what, attempt, *arguments):
    try:
        attempt(*arguments)
    except (OSError, ValueError):
        return
    found.append(what)

def call(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)

status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
if os.getuid() == 0 or os.geteuid() == 0:
    found.append("the code is root")
if int(status["CapEff"], 16) or int(status["CapPrm"], 16):
    found.append("the code has capabilities")
if status["NoNewPrivs"].strip() != "1":
    found.append("the code can gain privileges")
if status["Seccomp"].strip() != "2":
    found.append("system calls are not filtered")
works("the host's loopback is reachable", lambda: socket.create_connection(("127.0.0.1", PORT), 1))
works("the network has a way out", lambda: socket.socket(2, 2).connect(("192.0.2.1", 9)))
works("the host's temporary files are visible", os.stat, CANARY)
works("the system is writable", lambda: open("/usr/lib/mcpcp-probe", "w"))
works("kernel settings are writable", lambda: os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY))
works("namespaces can be made", call, "unshare", 0x10000000)
works("file systems can be mounted", call, "mount", b"none", b"/tmp", b"tmpfs", 0, None)
works("processes can be traced", call, "ptrace", 0, 0, 0, 0)
works("virtual machine sockets can be opened", socket.socket, 40, 1)
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        if CANARY.encode() in open("/proc/%s/cmdline" % pid, "rb").read():
            found.append("the host's processes are visible")
        if b"PATH" not in open("/proc/%s/environ" % pid, "rb").read():
            continue
        for word in open("/proc/%s/environ" % pid, "rb").read().split(b"\\0"):
            if word.split(b"=")[0] in (b"MCPCP_CREDENTIAL_FD", b"VIRTUAL_ENV", b"SSH_AUTH_SOCK"):
                found.append("the server's environment is visible")
    except OSError:
        pass
found
"""

_TOO_MUCH = "pages = bytearray(b'x') * (160 << 20)"

_TOO_MANY = """
import os, time
found = []

def until_it_fails(do, times):
    for n in range(times):
        try:
            do(n)
        except OSError:
            return n > 0  # where nothing works, nothing shows what would stop it
    return False

def fork(n):
    if os.fork() == 0:
        time.sleep(30)
        os._exit(0)

def write(n):
    with open("m%d" % n, "wb") as file:
        file.write(bytes(1 << 20))

if not until_it_fails(write, 8):
    found.append("disk is not limited")
for name in os.listdir("."):
    os.unlink(name)
if not until_it_fails(lambda n: os.close(os.open("f%d" % n, os.O_CREAT)), 600):
    found.append("the number of files is not limited")
if not until_it_fails(fork, 40):
    found.append("processes are not limited")
found
"""


_CROWD = 8
_GREED_SECONDS = 0.5
_CPUS = 0.1
_FAR_BEYOND = 5.0
"""Times the quota: what each processor takes before it is told to stop is far below that."""

# many at once, so that they get their share of a machine that is busy, too
_TOO_BUSY = f"""
import os, time
start = time.monotonic()
for _ in range({_CROWD}):
    if os.fork() == 0:
        while time.monotonic() < start + {_GREED_SECONDS}:
            pass
        os._exit(0)
for _ in range({_CROWD}):
    os.wait()
wall = time.monotonic() - start
used = os.times()
(used.children_user + used.children_system) / wall
"""


async def shortfalls(backend: Backend) -> dict[str, str]:
    """What of the backend's `isolation` the probes disprove, as it is instead.

    They prove nothing: on a busy machine, what has no limit may get no more than what has one. It
    takes seconds, since what is held to a tenth of a processor starts slowly.
    """
    claimed = backend.isolation.get("processors", UNLIMITED)
    if claimed == UNLIMITED:
        return {}
    try:
        got = await _processors(backend)
    except (SandboxBroken, OSError):
        return {}
    return {"processors": UNLIMITED} if got > _CPUS * _FAR_BEYOND else {}


async def _processors(backend: Backend) -> float:
    """How many of them code gets that may have a tenth of one, and takes all it can."""
    outcome = await run_once(backend, Job(_TOO_BUSY, Limits(timeout=_SECONDS, cpus=_CPUS)))
    try:
        return float(outcome.result or 0)
    except ValueError:
        return 0.0


async def weaknesses(backend: Backend) -> list[str]:
    """What the backend let the probes do; empty when it may be used."""
    try:
        return [*await _escapes(backend), *await _crowds(backend), *await _gluttony(backend)]
    except (SandboxBroken, OSError) as e:
        return [str(e)]


async def _escapes(backend: Backend) -> list[str]:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        tempfile.NamedTemporaryFile(prefix="mcpcp-canary-") as canary,
    ):
        Path(canary.name).chmod(0o644)
        known = f"PORT = {listener.getsockname()[1]}\nCANARY = {canary.name!r}\n"
        return await _confessions(backend, known + _PROBES, Limits(timeout=_SECONDS))


async def _crowds(backend: Backend) -> list[str]:
    limits = Limits(timeout=_SECONDS, disk=4 * MIB, inodes=256, processes=16)
    return await _confessions(backend, _TOO_MANY, limits)


async def _confessions(backend: Backend, program: str, limits: Limits) -> list[str]:
    outcome = await run_once(backend, Job(program, limits))
    if outcome.status != "ok" or outcome.result is None:
        return [f"the probes did not run: {outcome.status} {outcome.stderr[-500:]}".strip()]
    return [str(weakness) for weakness in ast.literal_eval(outcome.result)]


async def _gluttony(backend: Backend) -> list[str]:
    nonce = secrets.token_hex(8)
    limits = replace(Limits(timeout=_SECONDS), memory=_MEMORY, disk=_MEMORY // 4)
    outcome = await run_once(backend, Job(f"{_TOO_MUCH}\n{nonce!r}", limits))
    return [] if outcome.status == "memory_limit" else ["memory is not limited"]
