"""The fleet's processes together: each has a task here, and they stop in order.

Above: the supervisor. Below: one ManagedProcess for each, which starts itself again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from mcpcp.errors import FleetError
from mcpcp.fleet import ProcessState
from mcpcp.supervisor.changes import Changes
from mcpcp.supervisor.process import ManagedProcess
from mcpcp.supervisor.specs import ProcessSpec, stop_order

RESTART_MARGIN: Final = 2.0
_HOPE: Final = (
    ProcessState.RUNNING,
    ProcessState.STARTING,
    ProcessState.BACKOFF,
    ProcessState.STOPPING,
    ProcessState.FATAL,
    ProcessState.EXITED,
    ProcessState.STOPPED,
)
"""From the one that serves to those that will not."""


class Roster:
    """Which processes there are; `run` is their life, from the first start to the last end.

    `make` makes a process of its spec, `forget` is told the name of one that is not coming back.
    """

    def __init__(
        self,
        changes: Changes,
        make: Callable[[ProcessSpec], ManagedProcess],
        forget: Callable[[str], None],
    ) -> None:
        self._changes = changes
        self._make = make
        self._forget = forget
        self._processes: dict[str, ManagedProcess] = {}
        self._stopping = False
        self.at_once = False
        """Whether everything was to end without being asked."""
        self._tasks: asyncio.TaskGroup

    def __iter__(self) -> Iterator[ManagedProcess]:
        return iter(self._processes.values())

    def get(self, name: str) -> ManagedProcess | None:
        """The process of that name."""
        return self._processes.get(name)

    def replicas(self, server: str) -> list[ManagedProcess]:
        """All processes of a server."""
        return [process for process in self if process.spec.server == server]

    def state_of(self, server: str) -> ProcessState | None:
        """How a server is; one with replicas is as the best of them."""
        states = {process.status.state for process in self.replicas(server)}
        return min(states, key=_HOPE.index, default=None)

    async def run(self, specs: Iterable[ProcessSpec]) -> None:
        """Start them all, and return when a stop was asked for and all have ended."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for spec in specs:
                self._add(spec)
            await self._changes.until(lambda: self._stopping)
            await self._stop_in_order()

    def stop(self, *, at_once: bool = False) -> None:
        """Begin the graceful stop, or `at_once` end everything without asking."""
        self._stopping = True
        self.at_once |= at_once
        for process in self:
            if at_once:
                process.stop_at_once()
            elif process.status.pid is None:
                process.stop()  # what has not begun need not
        self._changes.notify()

    async def become(self, specs: Mapping[str, ProcessSpec]) -> None:
        """Touch what differs; a server that is gone is stopped before a new one takes its port."""
        gone = [name for name in self._processes if name not in specs]
        for name in gone:
            self._processes[name].stop()
        await self._changes.until(lambda: all(self._processes[n].finished for n in gone))
        for name in gone:
            del self._processes[name]
            self._forget(name)
        for name, spec in specs.items():
            if name in self._processes:
                self._processes[name].adapt(spec)
            else:
                self._add(spec)

    async def restart(self, process: ManagedProcess) -> None:
        """Stop and start it, and wait until it serves; raises FleetError when it does not."""
        name = process.spec.name
        before = process.starts
        process.restart()
        policy = process.spec.restart
        try:
            async with asyncio.timeout(policy.stop_timeout + policy.start_timeout + RESTART_MARGIN):
                await self._changes.until(lambda: process.finished or _has_tried(process, before))
        except TimeoutError:
            raise FleetError(f"{name} has not come up yet") from None
        if process.status.state is not ProcessState.RUNNING:
            raise FleetError(f"{name} is {process.status.state}: {process.status.error}")

    def _add(self, spec: ProcessSpec) -> None:
        if not self._stopping:
            process = self._processes[spec.name] = self._make(spec)
            self._tasks.create_task(process.run())

    async def _stop_in_order(self) -> None:
        """The gateway first, which lets calls in flight end; then what nothing depends on now."""
        processes = dict(self._processes)  # a reload that is still at work may remove some
        order = stop_order(process.spec for process in processes.values())
        waiting = dict(processes)
        while waiting:
            for name, process in list(waiting.items()):
                before = [processes[n] for n in order[name]]
                if self.at_once or _may_stop(process, before):
                    waiting.pop(name).stop()
            if waiting:
                await self._changes.after(self._changes.version)


def _may_stop(process: ManagedProcess, before: list[ManagedProcess]) -> bool:
    """Whether nobody needs the process any more, or it serves nobody anyhow."""
    serves = process.status.state is ProcessState.RUNNING
    return not serves or all(other.finished for other in before)


def _has_tried(process: ManagedProcess, before: int) -> bool:
    """Whether a start after the first `before` ones has come to something."""
    busy = {ProcessState.STARTING, ProcessState.STOPPING, ProcessState.STOPPED}
    return process.starts > before and process.status.state not in busy
