"""Sandboxes by bubblewrap: Linux namespaces, no capabilities, another user, our filter, a cgroup.

Above: `sandbox` chooses it, `selftest` tries it. Below: `makers`, `cgroup`, `conversation`.

bubblewrap is started once, as another user and with nothing but the system's programs to see; in it
runs `inside.maker`, which forks each sandbox into namespaces of its own.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import anyio

if sys.platform != "linux":
    raise ImportError("bubblewrap is a program of Linux")

from servers.plumbing.threads import in_thread
from servers.sandboxing import cgroup, seccomp
from servers.sandboxing.backend import UNLIMITED
from servers.sandboxing.conversation import SHOWN, Job, converse
from servers.sandboxing.inside import frames
from servers.sandboxing.makers import Lost, Maker, MakerGone, Sandboxed
from servers.sandboxing.outcome import Limits, Outcome, SandboxBroken
from servers.sandboxing.plan import ALL_PACKAGES, ENVIRONMENT, mounts, plan
from servers.sandboxing.program import program
from servers.sandboxing.transcript import Ending

SANDBOX_UID = 65534
"""Who the code is: root in a user namespace would still be root to files like core_pattern."""

_LIBRARIES = "/opt/libraries"
_SHARED = (
    *("/etc/ld.so.cache", "/etc/alternatives", "/etc/fonts"),
    *("/usr/share/zoneinfo", "/usr/share/fonts", "/usr/share/fontconfig"),
)
_ENVIRONMENT = {
    **ENVIRONMENT,
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "USER": "sandbox",
    "LOGNAME": "sandbox",
    "TMPDIR": "/tmp",  # noqa: S108 - the sandbox's own
}

Word = str | Path
"""A word of a command line; a Path is a source on the host."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """The Python that sandboxes run: where it is inside, and what of the host that takes.

    `libraries` are shown and importable; they are of one version, so only our own Python has any.
    """

    path: str
    mounts: tuple[tuple[Path, str], ...] = ()
    shared: str | None = None
    libraries: tuple[Path, ...] = ()


def interpreters(
    preferred: str | None = None, libraries: tuple[Path, ...] = ()
) -> Iterator[Interpreter]:
    """Pythons worth a try, best first: the one that is asked for, our own, the system's."""
    own = Path(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}")
    named = [Path(preferred)] if preferred else [own, *map(Path, _system_pythons())]
    seen = set()
    for path in named:
        interpreter = _interpreter(path)
        if interpreter is not None and interpreter.path not in seen:
            seen.add(interpreter.path)
            mine = path.resolve() == own.resolve()
            yield replace(interpreter, libraries=libraries) if mine else interpreter


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
        return Interpreter(str(path), tuple((prefix / d, f"{prefix}/{d}") for d in ("bin", "lib")))
    mounts = tuple((prefix / d, f"/opt/python/{d}") for d in ("bin", "lib"))
    return Interpreter(f"/opt/python/bin/{path.name}", mounts, "/opt/python/lib")


def system_mounts() -> Iterator[Word]:
    """The system's programs and libraries, read-only; not its data, sources and settings."""
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libexec"):
        usr, top = Path("/usr", name), Path("/", name)
        if usr.is_dir():
            yield from ("--ro-bind", str(usr), str(usr))
        if top.is_symlink():
            yield from ("--symlink", str(top.readlink()), str(top))
        elif top.is_dir():
            yield from ("--ro-bind", str(top), str(top))
    for path in _SHARED:
        yield from ("--ro-bind-try", path, path)


def _library_mounts(libraries: tuple[Path, ...]) -> Iterator[Word]:
    for path in libraries:
        yield from ("--ro-bind", path, f"{_LIBRARIES}/{path.name}")


def _environment(interpreter: Interpreter) -> Mapping[str, str]:
    found = dict(_ENVIRONMENT)
    if interpreter.shared:
        found["LD_LIBRARY_PATH"] = interpreter.shared
    if interpreter.libraries:
        found["PYTHONPATH"] = _LIBRARIES  # for what the code starts itself
    return found


def arguments(interpreter: Interpreter, packages: Path | None) -> list[Word]:
    """bubblewrap's words for the maker; sandboxes see less than it does, never more."""
    environment = _environment(interpreter)
    own = [word for source, shown in interpreter.mounts for word in ("--ro-bind", source, shown)]
    shelf: list[Word] = ["--ro-bind", packages, ALL_PACKAGES] if packages else []
    return [
        *("--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--as-pid-1"),
        *("--uid", str(SANDBOX_UID), "--gid", str(SANDBOX_UID), "--hostname", "sandbox"),
        *("--cap-drop", "ALL"),
        *system_mounts(),
        *own,
        *_library_mounts(interpreter.libraries),
        *("--proc", "/proc", "--dev", "/dev"),
        *shelf,
        *("--dir", SHOWN, "--dir", "/work", "--dir", "/tmp"),  # noqa: S108 - the sandbox's own
        *("--dir", "/var", "--symlink", "/tmp", "/var/tmp"),  # noqa: S108
        *("--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/work"),
        *(word for item in environment.items() for word in ("--setenv", *item)),
        *("--", interpreter.path, "-I", "-c", program("maker")),
    ]


@dataclass(frozen=True, slots=True)
class NamespaceCell:
    """A sandbox in namespaces of its own, and its control group where there is one."""

    sandboxed: Sandboxed
    group: cgroup.Group | None
    isolation: Mapping[str, str]

    @property
    def alive(self) -> bool:
        """Whether it still waits for its job."""
        return self.sandboxed.alive

    async def run(self, job: Job) -> Outcome:
        """Run the job; cancelling ends the sandbox at once."""
        group = self.group
        seen = replace(
            job,
            per_process_memory=group is None,
            cpu_seconds=group.cpu_seconds if group else None,
        )
        try:
            course = await converse(self.sandboxed.link, seen)
        except BaseException:
            self.sandboxed.kill()
            raise
        out_of_memory = group is not None and group.out_of_memory()
        if course.vanished and not out_of_memory:
            raise SandboxBroken(course.transcript.complaint or "it was killed before it ran")
        ending = Ending(
            duration=course.duration,
            timed_out=course.timed_out,
            out_of_memory=out_of_memory,
            cpu_seconds=group.cpu_seconds() if group else None,
            peak_memory=group.peak_memory() if group else None,
        )
        return course.transcript.outcome(ending).by("bubblewrap", self.isolation)

    async def discard(self) -> None:
        """Kill what is in it and remove its group."""
        with anyio.CancelScope(shield=True):
            await self.sandboxed.discard()
            if self.group is not None:
                await self.group.remove()


class Bubblewrap:
    """A backend: one maker, started when the first sandbox is asked for and again when it ended."""

    name = "bubblewrap"

    def __init__(
        self,
        bwrap: str,
        interpreter: Interpreter,
        groups: cgroup.Groups | None,
        *,
        scope: bool = False,
        packages: Path | None = None,
        imports: tuple[str, ...] = (),
    ) -> None:
        """`packages`: the folder of package folders; `imports`: modules to import in advance.

        `scope`: there are no groups yet, and systemd is asked for one with each maker.
        """
        self._bwrap = bwrap
        self._interpreter = interpreter
        self._scope = scope
        self._packages = packages
        self._imports = imports
        self._maker: Maker | None = None
        self._starting = anyio.Lock()
        self.groups = groups

    @property
    def isolation(self) -> dict[str, str]:
        """What holds the code in, for the caller to see."""
        version = 2 if self._scope else self.groups.version if self.groups else None
        memory = "per process only" if version is None else f"cgroup v{version}"
        return {
            "namespaces": "user, mount, pid, net, ipc, uts, cgroup",
            "system_calls": "filtered",
            "network": "none",
            "memory": memory,
            "processors": _processors(self.groups is not None and "cpu" in self.groups.parents),
        }

    def _isolation_of(self, group: cgroup.Group | None) -> Mapping[str, str]:
        """As the kernel has it for one sandbox: a group may have lost a controller since."""
        limited = group is not None and group.limits_processors()
        return {**self.isolation, "processors": _processors(limited)}

    late_packages = True
    most_warm = 8  # each costs about 2 MB while it waits

    async def make(self, limits: Limits, packages: Sequence[Path] = ()) -> NamespaceCell:
        """A fresh sandbox in a fresh control group; raises SandboxBroken when none came up."""
        sandboxed = await self._sandboxed(limits)
        try:
            # in a thread, because the kernel lets us wait; shielded, or a group may be left
            with anyio.CancelScope(shield=True):
                group, isolation = await in_thread(partial(self._group, limits, sandboxed))
            await sandboxed.link.send(frames.encode(frames.PREPARE))
        except BaseException:
            with anyio.CancelScope(shield=True):
                await sandboxed.discard()
            raise
        return NamespaceCell(sandboxed, group, isolation)

    async def _sandboxed(self, limits: Limits) -> Sandboxed:
        maker = await self._ready_maker()
        try:
            return await self._made_by(maker, limits)
        except (MakerGone, Lost):
            await self._replace(maker)
            return await (await self._ready_maker()).make(mounts(limits))

    async def _made_by(self, maker: Maker, limits: Limits) -> Sandboxed:
        """What was killed alone is made again: a maker that is replaced takes all others along."""
        try:
            return await maker.make(mounts(limits))
        except Lost:
            if not maker.alive:
                raise
            return await maker.make(mounts(limits))

    async def _replace(self, maker: Maker) -> None:
        async with self._starting:
            if self._maker is maker:
                await self._stop_maker()

    def _group(
        self, limits: Limits, sandboxed: Sandboxed
    ) -> tuple[cgroup.Group | None, Mapping[str, str]]:
        if self.groups is None:
            return None, self._isolation_of(None)
        try:
            group = self.groups.around(sandboxed.pid, limits)
        except OSError as e:
            raise SandboxBroken(f"no control group: {e}") from e
        return group, self._isolation_of(group)

    async def _ready_maker(self) -> Maker:
        async with self._starting:
            if self._maker is not None and not self._maker.alive:
                await self._stop_maker()
            if self._maker is None:
                self._maker = await Maker.start(self._command(), self._plan())
                if self._scope:
                    self.groups = await self._groups_of(self._maker)
            return self._maker

    async def _groups_of(self, maker: Maker) -> cgroup.Groups:
        try:
            return cgroup.of_scope(maker.pid)
        except OSError as e:
            await self._stop_maker()
            raise SandboxBroken(f"no control group from systemd: {e}") from e

    def _command(self) -> list[str]:
        command = as_nobody([self._bwrap, *arguments(self._interpreter, self._packages)])
        return cgroup.scoped(command) if self._scope else command

    def _plan(self) -> dict[str, object]:
        return plan(
            self._imports,
            paths=[_LIBRARIES] if self._interpreter.libraries else [],
            shelf=self._packages is not None,
        )

    async def _stop_maker(self) -> None:
        maker, self._maker = self._maker, None
        if maker is not None:
            with anyio.CancelScope(shield=True):
                await maker.stop()

    async def absence(self) -> str | None:
        """Nothing: whether a maker comes up is known when one is started."""
        return None

    async def trim(self) -> None:
        """Nothing: what waits shares the maker's memory."""

    async def close(self) -> None:
        """End the maker, and every sandbox with it."""
        async with self._starting:
            await self._stop_maker()


def _processors(limited: bool) -> str:
    return "quota" if limited else UNLIMITED


def as_nobody(words: list[Word]) -> list[str]:
    """The command as root starts it: by `staging`, which gives root up but shows the Paths."""
    if os.geteuid() != 0:
        return [str(word) for word in words]
    sources = [word for word in words if isinstance(word, Path)]
    numbered = iter(range(len(sources)))
    command = [next(numbered) if isinstance(word, Path) else word for word in words]
    plan = {"sources": [str(s) for s in sources], "command": command, "user": SANDBOX_UID}
    script = Path(__file__).with_name("staging.py").read_text("utf-8")
    return [sys.executable, "-I", "-S", "-c", script, json.dumps(plan)]


def find_bwrap() -> str | None:
    """bubblewrap's path, where it is installed and the machine's processor is one we know."""
    if sys.platform != "linux" or platform.machine() not in seccomp.MACHINES:
        return None
    return shutil.which("bwrap")
