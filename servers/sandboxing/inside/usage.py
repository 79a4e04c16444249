"""How much a sandbox has used, by whatever can be read from inside.

A container shows its own control group; a namespace of ours does not, and there the host reads it.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator

assert sys.platform == "linux"  # noqa: S101 - tells mypy; in a sandbox it is always so

_TICKS = os.sysconf("SC_CLK_TCK")
_GROUPS = "/sys/fs/cgroup"


def cpu_seconds() -> float:
    """Processor time of everything in the sandbox."""
    group = _group_cpu()
    return _processes_cpu() if group is None else group


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


def peak_memory() -> int:
    """Bytes: of the whole sandbox in a container, of its largest process elsewhere."""
    for path in ("memory.peak", "memory/memory.max_usage_in_bytes"):
        for line in _lines(f"{_GROUPS}/{path}"):
            return int(line)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def out_of_memory() -> bool:
    """Whether the kernel has ended a process of this container for want of memory."""
    for path in ("memory.events", "memory/memory.oom_control"):
        for line in _lines(f"{_GROUPS}/{path}"):
            key, _, value = line.partition(" ")
            if key == "oom_kill":
                return int(value) > 0
    return False


def _lines(path: str) -> Iterator[str]:
    try:
        with open(path, errors="replace") as file:
            yield from file
    except OSError:
        return
