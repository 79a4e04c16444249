"""Memory, processes and processor time of a whole sandbox, by control groups (version 1 and 2).

Only a memory control group bounds the sum over a sandbox's processes, and what tmpfs and the
kernel hold for them. Not every machine lets us make one: `find` says whether this one does.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import anyio

from servers.sandboxing.outcome import MIB, Limits

logger = logging.getLogger(__name__)

if sys.platform != "linux":
    raise ImportError("only Linux has this")

_PREFIX = "mcpcp-sandbox-"
_SCOPE = "mcpcp-maker-"
_CPU_PERIOD_US = 100_000
_REMOVALS = 3000
"""How often a group is tried to be removed, 10 ms apart: what is killed takes a while to end."""
_WANTED = ("memory", "pids", "cpu", "cpuacct")
_REQUIRED = {"memory", "pids"}


@dataclass(frozen=True, slots=True)
class Group:
    """The control groups of one sandbox: one folder in version 2, one a controller in version 1."""

    folders: Mapping[str, Path]
    version: int

    def add(self, pid: int) -> None:
        """Move a process in; its later children follow."""
        for folder in set(self.folders.values()):
            (folder / "cgroup.procs").write_text(str(pid))

    def out_of_memory(self) -> bool:
        """Whether the kernel ended one of its processes for want of memory."""
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        with suppress(OSError):
            for line in (self.folders["memory"] / name).read_text().splitlines():
                key, _, value = line.partition(" ")
                if key == "oom_kill":
                    return int(value) > 0
        return False

    def limits_processors(self) -> bool:
        """Whether the kernel has a quota for it: not every group has, or keeps, that controller."""
        with suppress(OSError, ValueError, KeyError):
            if self.version == 2:
                return (self.folders["memory"] / "cpu.max").read_text().split()[0] != "max"
            return int((self.folders["cpu"] / "cpu.cfs_quota_us").read_text()) > 0
        return False

    def cpu_seconds(self) -> float | None:
        """Processor time of all that is or was in it."""
        if self.version == 1:
            return _scaled(self.folders.get("cpuacct"), "cpuacct.usage", 1e-9)
        with suppress(OSError):
            for line in (self.folders["memory"] / "cpu.stat").read_text().splitlines():
                key, _, value = line.partition(" ")
                if key == "usage_usec":
                    return int(value) / 1e6
        return None

    def peak_memory(self) -> int | None:
        """The most bytes it held at once; version 2 tells since Linux 5.19."""
        name = "memory.peak" if self.version == 2 else "memory.max_usage_in_bytes"
        peak = _scaled(self.folders["memory"], name, 1)
        return None if peak is None else int(peak)

    async def remove(self) -> None:
        """Kill what is left in it and remove it; a folder that stays is swept at the next start."""
        for _ in range(_REMOVALS):
            left = [folder for folder in set(self.folders.values()) if not _remove(folder)]
            if not left:
                return
            await anyio.sleep(0.01)
        logger.warning("a control group stays behind", extra={"folders": self.folders})


@dataclass(frozen=True, slots=True)
class Groups:
    """Where this process may make control groups."""

    parents: Mapping[str, Path]
    version: int

    def make(self, limits: Limits) -> Group:
        """A new group under these limits; raises OSError where the kernel does not let us."""
        name = f"{_PREFIX}{os.getpid()}-{secrets.token_hex(6)}"
        folders = {controller: parent / name for controller, parent in self.parents.items()}
        try:
            for folder in set(folders.values()):
                folder.mkdir()
            for controller, file, value, required in _settings(self.version, limits):
                if controller in folders:
                    _set(folders[controller] / file, value, required=required)
        except OSError:
            for folder in set(folders.values()):
                _remove(folder)
            raise
        return Group(folders, self.version)

    def around(self, pid: int, limits: Limits) -> Group:
        """A new group with that process in it, or nothing and OSError."""
        group = self.make(limits)
        try:
            with suppress(ProcessLookupError):  # it has ended, which its run will show
                group.add(pid)
        except OSError:
            for folder in set(group.folders.values()):
                _remove(folder)
            raise
        return group

    def sweep(self) -> None:
        """Remove the groups of servers that are no more."""
        for folder in _leftovers(set(self.parents.values())):
            _remove(folder)


def _scaled(folder: Path | None, name: str, unit: float) -> float | None:
    if folder is not None:
        with suppress(OSError, ValueError):
            return int((folder / name).read_text()) * unit
    return None


def _settings(version: int, limits: Limits) -> list[tuple[str, str, str, bool]]:
    quota = str(int(limits.cpus * _CPU_PERIOD_US))
    # the first program inside counts too
    processes = str(limits.processes + 2)
    if version == 2:
        return [
            ("memory", "memory.max", str(limits.memory), True),
            ("memory", "memory.swap.max", "0", False),
            ("pids", "pids.max", processes, True),
            ("cpu", "cpu.max", f"{quota} {_CPU_PERIOD_US}", False),
        ]
    return [
        ("memory", "memory.limit_in_bytes", str(limits.memory), True),
        ("memory", "memory.memsw.limit_in_bytes", str(limits.memory), False),
        ("memory", "memory.swappiness", "0", False),
        ("pids", "pids.max", processes, True),
        ("cpu", "cpu.cfs_period_us", str(_CPU_PERIOD_US), False),
        ("cpu", "cpu.cfs_quota_us", quota, False),
    ]


def _set(file: Path, value: str, *, required: bool) -> None:
    try:
        file.write_text(value)
    except OSError:
        if required:
            raise


def _remove(folder: Path) -> bool:
    """Kill and remove; False while processes are still on their way out."""
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        _kill(folder)
        return False
    return True


def _kill(folder: Path) -> None:
    with suppress(OSError):
        for pid in (folder / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


def _leftovers(parents: set[Path]) -> Iterator[Path]:
    for parent in parents:
        for folder in parent.glob(f"{_PREFIX}*"):
            owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
            if owner.isdigit() and not Path("/proc", owner).exists():
                yield folder


def _try(groups: Groups) -> None:
    """Make a group and move a process in; raises OSError where the kernel does not let us."""
    group = groups.make(Limits(memory=16 * MIB))
    try:
        with subprocess.Popen(["sleep", "10"], stdin=subprocess.DEVNULL) as process:
            try:
                group.add(process.pid)
            finally:
                process.kill()
    finally:
        for folder in set(group.folders.values()):
            _remove(folder)


def find() -> Groups | None:
    """The control groups that this process may divide, tried out; None where there are none."""
    for groups in (*_version_1(), *_version_2()):
        with suppress(OSError):
            _try(groups)
            return groups
    return None


def has_scopes() -> bool:
    """Whether systemd can hand out a control group to divide (version 2), ours or the user's own.

    What systemd did not hand out it takes for its own: it may switch the processor's controller off
    in it when any service starts.
    """
    mount = _mount("cgroup2", None)
    if mount is None or not _REQUIRED.issubset(_words(mount.point / "cgroup.controllers")):
        return False  # the memory controller is version 1's, in a machine that has both
    bus = Path("/run/systemd/private") if os.geteuid() == 0 else _runtime() / "bus"
    return shutil.which("systemd-run") is not None and bus.exists()


def _runtime() -> Path:
    return Path(f"/run/user/{os.getuid()}")


def scoped(command: list[str]) -> list[str]:
    """The command in a scope of its own, with an environment as empty as it was meant to have.

    A group is divided where it is; so what is to be moved has to be started in it.
    """
    unit = f"--unit={_SCOPE}{os.getpid()}-{secrets.token_hex(6)}"
    options = ("--scope", "--quiet", "--collect", unit, "--property=Delegate=yes")
    clean = ("env", "-i", f"PATH={os.defpath}")
    if os.geteuid() == 0:
        return ["systemd-run", *options, "--", *clean, *command]
    runtime = f"XDG_RUNTIME_DIR={_runtime()}"
    return ["env", runtime, "systemd-run", "--user", *options, "--", *clean, *command]


def of_scope(pid: int) -> Groups:
    """The groups to be made in the scope of that process; raises OSError where it can't be.

    Only a scope that `scoped` asked for is divided: init and a login have scopes too.
    """
    mount = _mount("cgroup2", None)
    path = next((line[3:] for line in _lines(f"/proc/{pid}/cgroup") if line[:3] == "0::"), None)
    if mount is None or path is None or not Path(path).match(f"{_SCOPE}*.scope"):
        raise OSError("systemd gave no scope")
    return divided(mount.locate(path))


def divided(folder: Path) -> Groups:
    """What is in it moves down to `maker`: a group with processes can't have limited children."""
    maker = folder / "maker"
    maker.mkdir(exist_ok=True)
    for pid in (folder / "cgroup.procs").read_text().split():
        with suppress(ProcessLookupError):
            (maker / "cgroup.procs").write_text(pid)
    _enable(folder)
    return Groups({c: folder for c in _WANTED if c in _given(folder) | _REQUIRED}, 2)


def _enable(folder: Path) -> None:
    """Have the controllers that we want in the groups below; raises OSError."""
    (folder / "cgroup.subtree_control").write_text("+memory +pids")
    with suppress(OSError):  # not every systemd delegates it
        (folder / "cgroup.subtree_control").write_text("+cpu")


def _given(folder: Path) -> set[str]:
    """The controllers that the groups below have."""
    return {word.lstrip("+") for word in _words(folder / "cgroup.subtree_control")}


def _words(path: Path) -> set[str]:
    return set(" ".join(_lines(path)).split())


def _version_1() -> Iterator[Groups]:
    found = {}
    for line in _lines("/proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        for controller in set(controllers.split(",")) & set(_WANTED):
            mount = _mount("cgroup", controller)
            if mount is not None:
                found[controller] = mount.locate(path)
    if "memory" in found and "pids" in found:
        yield Groups({c: p for c, p in found.items() if os.access(p, os.W_OK)}, 1)


def _version_2() -> Iterator[Groups]:
    """Our own group, then those above it: a group that holds processes can't be divided."""
    mount = _mount("cgroup2", None)
    path = next((line[3:] for line in _lines("/proc/self/cgroup") if line[:3] == "0::"), None)
    if mount is None or path is None:
        return
    here = mount.locate(path)
    for folder in (here, *here.parents):
        if not folder.is_relative_to(mount.point):
            return
        if os.access(folder, os.W_OK):
            with suppress(OSError):
                _enable(folder)
            given = _given(folder)
            if given >= _REQUIRED:
                yield Groups({c: folder for c in _WANTED if c in given}, 2)


@dataclass(frozen=True, slots=True)
class _Mount:
    root: Path
    point: Path

    def locate(self, path: str) -> Path:
        inside = Path(path)
        if inside.is_relative_to(self.root):
            inside = inside.relative_to(self.root)
        return self.point / str(inside).lstrip("/")


def _mount(kind: str, option: str | None) -> _Mount | None:
    """The first mount of that file system type that has that super option."""
    for line in _lines("/proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, rest = before.split(), after.split()
        if rest[0] == kind and (option is None or option in rest[2].split(",")):
            return _Mount(Path(fields[3]), Path(fields[4]))
    return None


def _lines(path: str | Path) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
