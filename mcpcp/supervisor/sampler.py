"""What the processes use, and whose an orphan is: from looking at their trees now and then."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mcpcp.processes import (
    Usage,
    children,
    descendants,
    kill_tree,
    name_mark,
    session_of,
    usage,
)


@dataclass(frozen=True, slots=True)
class Sample:
    """What one process tree uses now: memory in bytes, CPU in percent of one core."""

    cpu_percent: float
    memory_bytes: int


class Sampler:
    """Remembers what it saw last: CPU is a difference, and an orphan's ancestors are gone."""

    def __init__(self) -> None:
        self._before: dict[int, tuple[float, Usage]] = {}
        self._family: dict[int, str] = {}
        self._adopted: dict[int, str | None] = {}

    def sample(self, leaders: Mapping[str, int]) -> dict[str, Sample]:
        """Look at each tree, given its name and leader; none of it waits."""
        now = time.monotonic()
        seen: dict[int, tuple[float, Usage]] = {}
        samples = {}
        for name, leader in leaders.items():
            below = descendants(leader)
            self._family.update(dict.fromkeys(below, name))
            used = usage([leader, *below])
            seen[leader] = (now, used)
            samples[name] = Sample(self._percent(leader, now, used), used.memory_bytes)
        self._before = seen
        return samples

    def _percent(self, leader: int, now: float, used: Usage) -> float:
        then, before = self._before.get(leader, (now, used))
        if now <= then:
            return 0.0
        # A child that ended takes its share along: less than before means nothing was used.
        return max(0.0, 100 * (used.cpu_seconds - before.cpu_seconds) / (now - then))

    def note_orphans(self, known: Iterable[int]) -> None:
        """Find out, while it can still be seen, whose the processes are that we have adopted."""
        orphans = set(children(os.getpid())).difference(known)
        self._adopted = {pid: self._adopted.get(pid) or self.owner(pid) for pid in orphans}
        alive = set(self._before) | orphans
        self._family = {p: n for p, n in self._family.items() if p in alive or _exists(p)}

    def owner(self, pid: int, leaders: Mapping[int, str] | None = None) -> str | None:
        """The managed process that `pid` comes from, as far as that can be known."""
        session = session_of(pid)
        if leaders and session is not None and session in leaders:
            return leaders[session]
        return self._family.get(pid) or name_mark(pid)

    def sweep(self, name: str, leader: int, known: Iterable[int]) -> int:
        """Kill what process `name` has left to us when it ended, and say how many those were.

        An orphan that nothing tells about, and that was not there before, came from it too.
        """
        killed = 0
        for pid in set(children(os.getpid())).difference(known):
            owner = self.owner(pid, {leader: name})
            new = pid not in self._adopted
            if owner == name or (owner is None and new) or self._adopted.get(pid) == name:
                kill_tree(pid)
                killed += 1
        return killed


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
