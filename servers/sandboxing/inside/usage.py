"""How much a sandbox has used, by whatever can be read from inside.

A container shows its own control group, which counts since the container began: what counts for a
call is the difference. A namespace of ours shows none, and there the host reads it.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator

assert sys.platform == "linux"  # noqa: S101 - tells mypy; in a sandbox it is always so

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_GROUPS = "/sys/fs/cgroup"
_IN_USE = ("memory.current", "memory/memory.usage_in_bytes")
_PEAK = ("memory.peak", "memory/memory.max_usage_in_bytes")
_STATISTICS = ("memory.stat", "memory/memory.stat")
_EVENTS = ("memory.events", "memory/memory.oom_control")
_SOCKETS = ("/proc/net/sockstat", "/proc/net/sockstat6")


class Account:
    """What is used from here on."""

    def __init__(self) -> None:
        self._cpu = _group_cpu() or 0.0
        self._in_use = _first_number(_IN_USE) or 0
        self._peak = _first_number(_PEAK) or 0
        self._kills = _kills()
        self._at_first = 0

    def begin(self, pid: int) -> None:
        """Of this process, all that it has by now is not counted as its own."""
        for line in _lines(f"/proc/{pid}/statm"):
            self._at_first = int(line.split()[1]) * _PAGE

    def cpu_seconds(self) -> float:
        """Processor time of everything in the sandbox."""
        group = _group_cpu()
        return _processes_cpu() if group is None else group - self._cpu

    def peak_memory(self) -> int:
        """Bytes, of everything where the group's mark was passed; else what can be known.

        The mark is the highest since the container began, and nobody inside can set it back: below
        it there are the growth of the largest process that has ended, and what is in use now.
        """
        peak, in_use = _first_number(_PEAK), _first_number(_IN_USE)
        if peak is not None and peak > self._peak:
            return max(peak - self._in_use, 0)
        largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        if in_use is None:
            return largest
        return max(largest - self._at_first, in_use - self._in_use, 0)

    def out_of_memory(self) -> bool:
        """Whether the kernel has ended a process of this container for want of memory."""
        return _kills() > self._kills


def files_in_memory() -> int:
    """Bytes that a container's file systems in memory, and shared memory, take."""
    return _value_of("shmem", _STATISTICS)


def ip_sockets() -> int:
    """How many our network has, of which each may hold what waits for its reader."""
    lines = (line.split() for name in _SOCKETS for line in _lines(name))
    return sum(int(words[2]) for words in lines if words[1] == "inuse")


def _group_cpu() -> float | None:
    for line in _lines(f"{_GROUPS}/cpu.stat"):
        key, _, value = line.partition(" ")
        if key == "usage_usec":
            return int(value) / 1e6
    for line in _lines(f"{_GROUPS}/cpuacct/cpuacct.usage"):
        return int(line) / 1e9
    return None


def _processes_cpu() -> float:
    """What has ended is in our own account, as the parent of all orphans."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = ended.ru_utime + ended.ru_stime
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if int(pid) != os.getpid():
            for line in _lines(f"/proc/{pid}/stat"):
                fields = line.rpartition(")")[2].split()
                total += sum(map(int, fields[11:15])) / _TICKS
    return total


def _first_number(names: tuple[str, ...]) -> int | None:
    for name in names:
        for line in _lines(f"{_GROUPS}/{name}"):
            return int(line)
    return None


def _kills() -> int:
    return _value_of("oom_kill", _EVENTS)


def _value_of(wanted: str, names: tuple[str, ...]) -> int:
    for name in names:
        for line in _lines(f"{_GROUPS}/{name}"):
            key, _, value = line.partition(" ")
            if key == wanted:
                return int(value)
    return 0


def _lines(path: str) -> Iterator[str]:
    try:
        with open(path, errors="replace") as file:
            yield from file
    except OSError:
        return
