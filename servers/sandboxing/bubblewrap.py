"""Sandboxes by bubblewrap: Linux namespaces, no capabilities, another user, our filter, a cgroup.

Above: `sandbox` chooses it, `selftest` tries it. Below: `exchange` for the words, `cgroup`.
"""

from __future__ import annotations

import platform
import shutil
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import anyio

if sys.platform != "linux":
    raise ImportError("bubblewrap is a program of Linux")

from servers.sandboxing import cgroup, seccomp
from servers.sandboxing.child import SANDBOX_UID, Descriptors, started
from servers.sandboxing.exchange import Ending, Exchange, program
from servers.sandboxing.outcome import Limits, Outcome, SandboxBroken
from servers.sandboxing.text import decode

_ETC = ("/etc/ld.so.cache", "/etc/alternatives")
_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/work",
    "USER": "sandbox",
    "LOGNAME": "sandbox",
    "TMPDIR": "/tmp",  # noqa: S108 - the sandbox's own
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONDONTWRITEBYTECODE": "1",
    # a sandbox has one processor: numeric libraries would start a thread for each of the host's
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


@dataclass(frozen=True, slots=True)
class Interpreter:
    """The Python that sandboxes run: where it is inside, and what of the host that takes."""

    path: str
    mounts: tuple[tuple[str, str], ...] = ()
    libraries: str | None = None


def interpreters(preferred: str | None = None) -> Iterator[Interpreter]:
    """Pythons worth a try, best first: the one that is asked for, our own, the system's."""
    own = Path(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}")
    named = [Path(preferred)] if preferred else [own, *map(Path, _system_pythons())]
    seen = set()
    for path in named:
        interpreter = _interpreter(path)
        if interpreter is not None and interpreter not in seen:
            seen.add(interpreter)
            yield interpreter


def _system_pythons() -> tuple[str, ...]:
    return ("/usr/bin/python3", "/usr/local/bin/python3")


def _interpreter(path: Path) -> Interpreter | None:
    """Where a Python that lies in a folder of its own is shown to the sandbox: /opt/python."""
    if not path.exists():
        return None
    path = path.resolve()
    prefix = path.parent.parent
    if prefix == Path("/usr"):
        return Interpreter(str(path))
    if prefix == Path("/usr/local"):
        return Interpreter(str(path), tuple((f"{prefix}/{d}",) * 2 for d in ("bin", "lib")))
    mounts = tuple((f"{prefix}/{d}", f"/opt/python/{d}") for d in ("bin", "lib"))
    return Interpreter(f"/opt/python/bin/{path.name}", mounts, "/opt/python/lib")


def system_mounts() -> list[str]:
    """The system's programs and libraries, read-only; not its data, sources and settings."""
    words: list[str] = []
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libexec"):
        usr, top = Path("/usr", name), Path("/", name)
        if usr.is_dir():
            words += ["--ro-bind", str(usr), str(usr)]
        if top.is_symlink():
            words += ["--symlink", str(top.readlink()), str(top)]
        elif top.is_dir():
            words += ["--ro-bind", str(top), str(top)]
    for path in (*_ETC, "/usr/share/zoneinfo"):
        words += ["--ro-bind-try", path, path]
    return words


def _tmpfs(path: str, size: int, mode: str) -> list[str]:
    return ["--perms", mode, "--size", str(size), "--tmpfs", path]


def arguments(interpreter: Interpreter, limits: Limits, descriptors: Descriptors) -> list[str]:
    """bubblewrap's words for one sandbox."""
    environment = dict(_ENVIRONMENT)
    if interpreter.libraries:
        environment["LD_LIBRARY_PATH"] = interpreter.libraries
    return [
        *("--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--as-pid-1"),
        *("--uid", str(SANDBOX_UID), "--gid", str(SANDBOX_UID), "--hostname", "sandbox"),
        *("--cap-drop", "ALL"),
        *system_mounts(),
        *(word for mount in interpreter.mounts for word in ("--ro-bind", *mount)),
        *("--proc", "/proc", "--dev", "/dev"),
        *_tmpfs("/dev/shm", limits.scratch, "1777"),  # noqa: S108 - the sandbox's own
        *_tmpfs("/tmp", limits.scratch, "1777"),  # noqa: S108 - the sandbox's own
        *("--dir", "/var", "--symlink", "/tmp", "/var/tmp"),  # noqa: S108
        *_tmpfs("/work", limits.disk, "0700"),
        *("--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/work"),
        *(word for item in environment.items() for word in ("--setenv", *item)),
        *("--seccomp", str(descriptors.seccomp)),
        *("--info-fd", str(descriptors.info), "--block-fd", str(descriptors.block)),
        *("--", interpreter.path, "-I", "-c", program()),
    ]


@dataclass(frozen=True, slots=True)
class Bubblewrap:
    """A backend: every `run` makes a sandbox and throws it away."""

    bwrap: str
    interpreter: Interpreter
    groups: cgroup.Groups | None
    name: str = "bubblewrap"

    @property
    def isolation(self) -> dict[str, str]:
        """What holds the code in, for the caller to see."""
        memory = f"cgroup v{self.groups.version}" if self.groups else "per process only"
        return {
            "namespaces": "user, mount, pid, net, ipc, uts, cgroup",
            "system_calls": "filtered",
            "network": "none",
            "memory": memory,
        }

    async def run(self, code: str, limits: Limits) -> Outcome:
        """Run the code in a fresh sandbox; cancelling it ends the sandbox at once.

        Raises SandboxBroken when no sandbox came up.
        """
        exchange = Exchange(code, limits, per_process_memory=self.groups is None)

        def command(descriptors: Descriptors) -> list[str]:
            return [self.bwrap, *arguments(self.interpreter, limits, descriptors)]

        async with self._group(limits) as group, started(command, seccomp.bpf()) as child:
            if group is not None:
                with suppress(ProcessLookupError):  # it gave up; what it says is read below
                    group.add(child.init)
            began = time.monotonic()
            child.release()
            timed_out = await child.converse(exchange, limits.timeout)
            ending = Ending(
                duration=time.monotonic() - began,
                timed_out=timed_out,
                out_of_memory=group is not None and group.out_of_memory(),
            )
        complaint = exchange.stderr.head(2000)
        if not exchange.reported and complaint.startswith(b"bwrap: "):
            raise SandboxBroken(decode(complaint).strip())
        return exchange.outcome(ending).by(self.name, self.isolation)

    @asynccontextmanager
    async def _group(self, limits: Limits) -> AsyncIterator[cgroup.Group | None]:
        if self.groups is None:
            yield None
            return
        group = self.groups.make(limits)
        try:
            yield group
        finally:
            with anyio.CancelScope(shield=True):
                await group.remove()


def find_bwrap() -> str | None:
    """bubblewrap's path, where it is installed and the machine's processor is one we know."""
    if sys.platform != "linux" or platform.machine() not in seccomp.MACHINES:
        return None
    return shutil.which("bwrap")
