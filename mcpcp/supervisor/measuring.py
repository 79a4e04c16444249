"""Looks now and then at what each process uses, holds it to its limit, and knows its orphans."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from mcpcp.supervisor.changes import Changes
from mcpcp.supervisor.process import ManagedProcess
from mcpcp.supervisor.reaper import Reaper
from mcpcp.supervisor.roster import Roster
from mcpcp.supervisor.sampler import Sampler

logger = logging.getLogger(__name__)

SAMPLE_INTERVAL: Final = 2.0


class Measuring:
    """One object a fleet; `run` is its task."""

    def __init__(self, roster: Roster, reaper: Reaper, changes: Changes) -> None:
        self._roster = roster
        self._reaper = reaper
        self._changes = changes
        self._sampler = Sampler()

    async def run(self) -> None:
        """Look at them for ever."""
        while True:
            await asyncio.sleep(SAMPLE_INTERVAL)
            processes = {p.spec.name: p for p in self._roster}
            leaders = {n: p.status.pid for n, p in processes.items() if p.status.pid is not None}
            for name, sample in self._sampler.sample(leaders).items():
                processes[name].measure(sample.cpu_percent, sample.memory_bytes)
                _check_memory(processes[name], sample.memory_bytes)
            self._sampler.note_orphans(self._reaper.pids)
            self._changes.notify()

    def sweep(self, name: str, leader: int) -> None:
        """Kill what a process that has ended has left behind."""
        killed = self._sampler.sweep(name, leader, self._reaper.pids)
        if killed:
            logger.info("%s had left %d processes behind: killed", name, killed)


def _check_memory(process: ManagedProcess, used: int) -> None:
    limit = process.spec.limits.memory_bytes
    if limit is not None and used > limit:
        process.fail(f"used {used >> 20} MiB of memory, its limit is {limit >> 20} MiB")
