"""Spawn, group, signal, reap, look up: the one place that knows how operating systems differ.

Above: the supervisor, and `backends/stdio` for the servers that the gateway owns. Every process
that is started here leads a session and a group of its own, so a signal to its group reaches what
it started; what left its group is found by ancestry.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from mcpcp.errors import FleetError

NAME_MARK: Final = "MCPCP_PROCESS"
"""Environment variable that tells which managed process something belongs to."""

FLEET_MARK: Final = "MCPCP_FLEET"
"""Environment variable that tells which fleet something belongs to, where there is no subreaper."""

PR_SET_PDEATHSIG: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36

if sys.platform == "win32":
    KILL: Final[int] = signal.SIGTERM  # there any signal ends a process, unheard
else:
    KILL: Final[int] = signal.SIGKILL

KILL_PAUSE: Final = 0.002
"""Seconds between two looks at whether what was killed is gone."""

# Bound at import, so that the child between fork and exec only calls, and imports nothing.
_prctl: Callable[..., int] | None = (
    ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None
)


@dataclass(frozen=True, slots=True)
class Launch:
    """What to start: `env` is whole, `output` becomes stdout and stderr.

    `inherit` maps environment variables to descriptors of ours: the child finds its number there.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    output: int
    inherit: Mapping[str, int] = field(default_factory=dict)


def become_subreaper() -> bool:
    """Adopt every orphan among our descendants; False where the system has no such thing."""
    return _prctl is not None and _prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def die_with_parent() -> None:
    """For a child between fork and exec: be killed when the thread that forked us ends (Linux)."""
    if _prctl is not None:
        _prctl(PR_SET_PDEATHSIG, KILL, 0, 0, 0)


def group_options() -> dict[str, Any]:
    """Arguments for Popen or `create_subprocess_exec`: a group of its own that dies with us.

    Call from the main thread: the kernel takes the end of the forking thread for the parent's end.
    """
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    if sys.platform == "linux":
        return {"start_new_session": True, "preexec_fn": die_with_parent}
    return {"start_new_session": True}


def spawn(launch: Launch) -> subprocess.Popen[bytes]:
    """Start a program; raises FleetError with the reason when that can't be done.

    The caller reaps: on POSIX the returned Popen is only good for its `pid`.
    """
    env = {**launch.env, **{name: str(fd) for name, fd in launch.inherit.items()}}
    try:
        process = subprocess.Popen(
            launch.argv,
            stdin=subprocess.DEVNULL,
            stdout=launch.output,
            stderr=launch.output,
            env=env,
            cwd=launch.cwd,
            **_lending([*launch.inherit.values()]),
            **group_options(),
        )
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise FleetError(_why_not_started(launch, error)) from None
    if sys.platform != "win32":
        process.returncode = 0  # else Popen would wait for the child too, and steal it from us
    return process


def _lending(descriptors: list[int]) -> dict[str, Any]:
    """Arguments for Popen that let the child have these, under the same numbers."""
    if sys.platform == "win32":  # there they are handles, of sockets
        for handle in descriptors:
            os.set_handle_inheritable(handle, True)
        return {"startupinfo": subprocess.STARTUPINFO(lpAttributeList={"handle_list": descriptors})}
    return {"pass_fds": descriptors}


def _why_not_started(launch: Launch, error: Exception) -> str:
    program = launch.argv[0]
    if not launch.cwd.is_dir():
        return f"cannot start {program}: the folder {launch.cwd} does not exist"
    if isinstance(error, FileNotFoundError):
        return f"cannot start {program}: there is no such program on the PATH"
    return f"cannot start {program}: {getattr(error, 'strerror', None) or error}"


def signal_group(pid: int, number: int) -> bool:
    """Signal the group that `pid` leads; False when nobody is left in it."""
    try:
        if sys.platform == "win32":
            os.kill(pid, signal.CTRL_BREAK_EVENT if number != KILL else number)
        else:
            os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    except OSError as error:
        return error.errno not in {errno.ESRCH, errno.EINVAL}
    return True


def group_is_empty(pid: int) -> bool:
    """Whether nobody, not even a zombie, is left in the group that `pid` led."""
    if sys.platform == "win32":
        return not psutil.pid_exists(pid)
    return not signal_group(pid, 0)


def wake_and_end(pid: int) -> None:
    """Ask a group to end; one that was stopped must be woken to hear it."""
    signal_group(pid, signal.SIGTERM)
    if sys.platform != "win32":
        signal_group(pid, signal.SIGCONT)


def kill(pid: int) -> None:
    """SIGKILL one process, whether it still exists or not."""
    with contextlib.suppress(OSError):
        os.kill(pid, KILL)


def children(pid: int) -> list[int]:
    """Direct children, zombies among them."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        found = [int(c) for t in tasks for c in (t / "children").read_text().split()]
    except OSError:  # gone, hidden from us, or a system without /proc
        if sys.platform == "linux" and not Path(f"/proc/{pid}").exists():
            return []
        return _children_by_psutil(pid)
    return found


def _children_by_psutil(pid: int) -> list[int]:
    with contextlib.suppress(psutil.Error):
        return [child.pid for child in psutil.Process(pid).children()]
    return []


def descendants(pid: int) -> list[int]:
    """All processes below `pid`, parents before their children."""
    found: list[int] = []
    todo = [pid]
    while todo:
        below = children(todo.pop())
        found += below
        todo += below
    return found


def kill_tree(pid: int) -> None:
    """SIGKILL a process and everything below it, from the top, so that nobody can fork anew."""
    for one in [pid, *descendants(pid)]:
        kill(one)


def kill_everything_below_us(fleet: str, most_waits: int = 2500) -> int:
    """Kill and reap all our descendants, adopted ones too, and say how many there were.

    Where there is no subreaper, orphans are found by the fleet's mark in their environment. It
    gives up on what the system does not end, after `most_waits` of KILL_PAUSE: counted, since a
    clock would count the time as well in which this process did not run.
    """
    killed: set[int] = set()
    for _ in range(most_waits):
        _reap_all()
        # Zombies too: one that we look at when it has just died may have left us a living child.
        found = [*descendants(os.getpid()), *_marked(fleet)]
        if not found:
            break
        living = [pid for pid in found if not _is_zombie(pid)]
        for pid in living:
            kill(pid)
        killed.update(living)
        time.sleep(KILL_PAUSE)
    return len(killed)


def _marked(fleet: str) -> list[int]:
    if sys.platform == "linux":
        return []
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(FLEET_MARK) == fleet and process.pid != os.getpid():
                found.append(process.pid)
    return found


def _is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


def _reap_all() -> None:
    if sys.platform == "win32":
        return
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def exit_code(status: int) -> int:
    """A wait status as subprocess writes it: negative is the signal that ended the process."""
    return os.waitstatus_to_exitcode(status)


def describe_exit(code: int) -> str:
    """`code` as a person reads it."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def describe(pid: int | None) -> str:
    """`pid 123 (python3 -m http.server)`, for naming a stranger."""
    if pid is None:
        return "a process of another user"
    try:
        line = " ".join(psutil.Process(pid).cmdline()) or psutil.Process(pid).name()
    except psutil.Error:
        return f"pid {pid}"
    return f"pid {pid} ({line[:200]})"


def port_is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if sys.platform != "win32":  # there the option would let us share a port that is taken
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno != errno.EADDRINUSE
    return True


def port_owner(port: int) -> int | None:
    """The pid that listens on `port`, None when there is none or we may not know."""
    try:
        rows = psutil.net_connections(kind="tcp")
    except psutil.Error:
        return None
    listening = (r for r in rows if r.status == psutil.CONN_LISTEN and r.pid)
    return next((r.pid for r in listening if r.laddr and r.laddr[1] == port), None)


def listens(pid: int, port: int) -> bool:
    """Whether that process holds a listening socket on `port`."""
    try:
        rows = psutil.Process(pid).net_connections(kind="tcp")
    except psutil.Error:
        return False
    return any(r.status == psutil.CONN_LISTEN and r.laddr and r.laddr[1] == port for r in rows)


def belongs_to(pid: int, leader: int) -> bool:
    """Whether `pid` is `leader`, in its session or somewhere below it."""
    if pid == leader:
        return True
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            if os.getsid(pid) == leader:
                return True
    with contextlib.suppress(psutil.Error):
        return any(parent.pid == leader for parent in psutil.Process(pid).parents())
    return False


def name_mark(pid: int) -> str | None:
    """Which managed process the environment of `pid`, as it was at its exec, names."""
    try:
        return psutil.Process(pid).environ().get(NAME_MARK)
    except (psutil.Error, OSError):
        return None


def session_of(pid: int) -> int | None:
    """The session that `pid` is in."""
    if sys.platform == "win32":
        return None
    try:
        return os.getsid(pid)
    except OSError:
        return None


def open_pidfd(pid: int) -> int | None:
    """A descriptor that becomes readable when `pid` ends; None where that can't be had.

    Only safe while `pid` can't be reused: for a child that was not reaped, or a parent.
    """
    if sys.platform != "linux":
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def has_ended(pidfd: int) -> bool:
    """Whether the process behind a pidfd has ended."""
    if sys.platform == "win32":
        return False
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process tree has used: CPU in seconds since each began, memory (RSS) in bytes."""

    cpu_seconds: float
    memory_bytes: int


def usage(pids: Iterable[int]) -> Usage:
    """The sum over the processes that still exist; pages they share count for each."""
    cpu, memory = 0.0, 0
    for pid in pids:
        one = _usage_of(pid)
        cpu += one.cpu_seconds
        memory += one.memory_bytes
    return Usage(cpu, memory)


if sys.platform == "linux":
    _TICKS: Final = os.sysconf("SC_CLK_TCK")
    _PAGE: Final = os.sysconf("SC_PAGE_SIZE")

    def _usage_of(pid: int) -> Usage:
        try:
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            return Usage(0.0, 0)
        # After the name: state is field 3, so utime (14), stime (15) and rss (24) are 11, 12, 21.
        return Usage((int(fields[11]) + int(fields[12])) / _TICKS, int(fields[21]) * _PAGE)

else:

    def _usage_of(pid: int) -> Usage:
        try:
            process = psutil.Process(pid)
            times = process.cpu_times()
            return Usage(times.user + times.system, process.memory_info().rss)
        except psutil.Error:
            return Usage(0.0, 0)
