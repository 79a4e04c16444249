"""ManagedProcess: one process through all its lives.

Above: the supervisor, which owns the task that `run`s it. Below: `forking` starts it, `probe` asks
it, `restarts` decides what follows its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

from mcpcp.errors import FleetError
from mcpcp.fleet import ProcessState, ProcessStatus
from mcpcp.processes import (
    KILL,
    Launch,
    belongs_to,
    describe,
    describe_exit,
    group_is_empty,
    port_is_free,
    port_owner,
    signal_group,
    wake_and_end,
)
from mcpcp.supervisor.changes import Changes
from mcpcp.supervisor.forking import Child, Launcher
from mcpcp.supervisor.logs import ProcessLog
from mcpcp.supervisor.probe import NotServing, Target, ask, until_ready
from mcpcp.supervisor.restarts import End, Verdict, judge
from mcpcp.supervisor.specs import ProcessSpec

logger = logging.getLogger(__name__)

KILL_TIMEOUT: Final = 20.0
"""Seconds that the system may take to end a killed process (one in uninterruptible sleep)."""

GROUP_POLL: Final = 0.01
PORT_GRACE: Final = 0.3
PORT_POLL: Final = 0.02
PORT_CHECK: Final = 1.0
LONGEST_REST: Final = 3600.0

SPEECHLESS: Final = frozenset({0, -signal.SIGTERM, -signal.SIGINT, -KILL})
"""Exit codes of processes whose last words say nothing about their end."""

UP: Final = frozenset({ProcessState.RUNNING})
HOPELESS: Final = frozenset({ProcessState.FATAL, ProcessState.EXITED, ProcessState.STOPPED})
SETTLED: Final = frozenset({ProcessState.RUNNING, ProcessState.EXITED, ProcessState.FATAL})


class Order(Enum):
    """What somebody outside wants of a process."""

    STOP = auto()
    RESTART = auto()


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a living process has to go; one that hangs would not hear a TERM."""

    text: str
    hangs: bool = False


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all processes of a fleet share.

    `environment` gives a process its whole environment, `attach` lends the descriptors that it
    inherits, `state_of` tells how another process is, `sweep` kills what one has left behind.
    """

    launcher: Launcher
    changes: Changes
    environment: Callable[[ProcessSpec], Mapping[str, str]]
    attach: Callable[[ProcessSpec], AbstractContextManager[Mapping[str, int]]]
    state_of: Callable[[str], ProcessState | None]
    sweep: Callable[[str, int], None]


class ManagedProcess:
    """Keeps one process going: starts it, watches it, ends it, and starts it again."""

    def __init__(self, spec: ProcessSpec, log: ProcessLog, around: Surroundings) -> None:
        self.spec = spec
        self.log = log
        self._around = around
        self._order: Order | None = None
        self._at_once = False
        self._fault: Fault | None = None
        self._failures = 0
        self.starts = 0
        self._finished = False
        self._waits = False
        self._blocked = False
        self._last_error: str | None = None
        # From the first moment: a gateway that hears of STOPPED would not wait for its tools.
        self.status = ProcessStatus(spec.name, ProcessState.STARTING, port=spec.port)

    # Orders, from outside

    def stop(self) -> None:
        """Ask it to end for good; `run` returns when it has."""
        self._give(Order.STOP)

    def stop_at_once(self) -> None:
        """Stop without asking: also when a stop was asked for already."""
        self._at_once = True
        self._give(Order.STOP)

    def restart(self) -> None:
        """Stop it where it runs, and start it anew, its failures forgotten."""
        if self._order is not Order.STOP:
            self._give(Order.RESTART)

    def adapt(self, spec: ProcessSpec) -> None:
        """Go on by a new spec; restarts only where the process itself would differ."""
        same = self.spec.starts_like(spec)
        self.spec = spec
        self.status = replace(self.status, port=spec.port)
        if not same:
            self.restart()
        self._around.changes.notify()

    def fail(self, text: str) -> None:
        """Something found out that the living process has to be restarted."""
        self._fault = Fault(text)
        self._around.changes.notify()

    def measure(self, cpu_percent: float, memory_bytes: int) -> None:
        """Record what its tree uses."""
        if self.status.pid is not None:
            self.status = replace(self.status, cpu_percent=cpu_percent, memory_bytes=memory_bytes)

    @property
    def finished(self) -> bool:
        """Whether it has stopped for good."""
        return self._finished

    @property
    def settled(self) -> bool:
        """Whether it serves, or will not without something changing."""
        return self._waits or self.status.state in SETTLED

    def _give(self, order: Order) -> None:
        self._order = order
        self._around.changes.notify()

    # Its lives

    async def run(self) -> None:
        """Keep the process going until it was told to stop, and is gone."""
        try:
            while self._order is not Order.STOP:
                await self._begin()
                if self._order is None:
                    await self._rest(await self._live())
        finally:
            self._finished = True
            self._enter(ProcessState.STOPPED)

    async def _begin(self) -> None:
        """Forget a restart that was asked for, and wait for what this process depends on."""
        if self._order is Order.RESTART:
            self._order = None
            self._failures = 0
            self._last_error = None
        while self._order is None and (missing := self._missing()):
            version = self._around.changes.version
            hopeless = any(self._around.state_of(name) in HOPELESS for name in missing)
            # While there is hope it is STARTING: the gateway waits for the tools of such a server.
            self._waits = hopeless
            self._enter(
                ProcessState.STOPPED if hopeless else ProcessState.STARTING,
                error=f"waits for {', '.join(missing)}",
            )
            await self._around.changes.after(version)
        self._waits = False

    def _missing(self) -> list[str]:
        return [n for n in self.spec.depends_on if self._around.state_of(n) not in UP]

    async def _live(self) -> Verdict:
        """One life, from start to end, and what follows from it."""
        self._fault = None
        if self.starts:
            self.status = replace(self.status, restarts=self.starts)
        self.starts += 1
        self._enter(ProcessState.STARTING)
        try:
            child = await self._start()
        except (FleetError, OSError) as error:
            return self._judge(End(None, None), str(error))
        served = await self._accompany(child)
        code = child.ended.result() if child.ended.done() else None
        return self._judge(End(code, served), self._explain(code))

    async def _start(self) -> Child:
        await self._check_port()
        output = self.log.open()
        try:
            with self._around.attach(self.spec) as inherit:
                return await self._around.launcher.start(
                    Launch(
                        name=self.spec.name,
                        argv=self.spec.argv,
                        env=self._around.environment(self.spec),
                        cwd=self.spec.cwd,
                        output=output,
                        inherit=inherit,
                    )
                )
        finally:
            os.close(output)

    async def _check_port(self) -> None:
        """Name a stranger on our port; what has just died may hold it for a moment."""
        port = self.spec.port
        self._blocked = False
        waited = 0.0  # added up: time in which we stood still was none for others either
        while port is not None and not port_is_free(port, self.spec.host):
            if waited > PORT_GRACE:
                await self._consider_owner(port, waited)
            await asyncio.sleep(PORT_POLL)
            waited += PORT_POLL

    async def _consider_owner(self, port: int, waited: float) -> None:
        """Raise FleetError where a stranger has the port; one of our own is waited for."""
        owner = await asyncio.to_thread(port_owner, port)
        who = await asyncio.to_thread(describe, owner)
        if waited > KILL_TIMEOUT or not self._may_be_dying(owner):
            self._blocked = True
            raise FleetError(f"port {port} is used by {who}")
        self._enter(ProcessState.STARTING, error=f"waits for port {port}, still used by {who}")

    def _may_be_dying(self, owner: int | None) -> bool:
        """Whether it may be left of the life before, which a slow system takes its time to end."""
        return self.starts > 1 and (owner is None or belongs_to(owner, os.getpid()))

    async def _accompany(self, child: Child) -> float | None:
        """Be with the process until it is gone; returns for how many seconds it served."""
        self._enter(ProcessState.STARTING, pid=child.pid)
        child.ended.add_done_callback(lambda _: self._around.changes.notify())
        try:
            await self._watch_until_end(child)
            ready_at = self.status.since if self.status.state in UP else None
            served = None if ready_at is None else time.monotonic() - ready_at
            await self._end(child)
        finally:
            signal_group(child.pid, KILL)
        self._around.sweep(self.spec.name, child.pid)
        return served

    async def _watch_until_end(self, child: Child) -> None:
        """Return when the process has ended, or has to."""
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(self._watch(child.pid))
            await self._around.changes.until(
                lambda: child.ended.done() or self._order is not None or self._fault is not None
            )
            watching.cancel()

    async def _watch(self, pid: int) -> None:
        """Find out when it serves, and when it does not any more; a fault is left in `_fault`."""
        if self.spec.port is None:
            self._enter(ProcessState.RUNNING, pid=pid)
            return
        limit = self.spec.restart.start_timeout
        try:
            async with asyncio.timeout(limit):
                health = await until_ready(self._target(), pid)
        except TimeoutError:
            self._find(Fault(f"did not serve within {limit:g} s"))
            return
        except FleetError as error:
            self._find(Fault(str(error)))
            return
        self._enter(ProcessState.RUNNING, pid=pid, health=str(health))
        await self._watch_liveness()

    async def _watch_liveness(self) -> None:
        missed = 0
        while missed < self.spec.health.failures:
            check = self.spec.health
            # Probes of many servers must not fall into one moment.
            await asyncio.sleep(check.interval * (0.9 + 0.2 * random.random()))  # noqa: S311
            try:
                health = str(await ask(self._target(), check.timeout))
            except NotServing as finding:
                missed += 1
                health = f"failing: {finding}"
            else:
                missed = 0
            if health != self.status.health:
                self.status = replace(self.status, health=health)
                self._around.changes.notify()
        self._find(Fault(f"hung: {self.status.health}, {missed} times", hangs=True))

    def _target(self) -> Target:
        return Target(self.spec.port or 0, self.spec.health.path, self.spec.host)

    def _find(self, fault: Fault) -> None:
        logger.warning("%s %s", self.spec.name, fault.text)
        self._fault = fault
        self._around.changes.notify()

    async def _end(self, child: Child) -> None:
        """TERM, deadline, KILL to the group; a hung one gets no TERM."""
        if not child.ended.done():
            self._enter(ProcessState.STOPPING, pid=child.pid)
            if self._fault is None or not self._fault.hangs:
                await self._ask_to_end(child)
        signal_group(child.pid, KILL)
        try:
            async with asyncio.timeout(KILL_TIMEOUT):
                await asyncio.shield(child.ended)
        except TimeoutError:
            logger.warning("%s (pid %d) does not end although killed", self.spec.name, child.pid)

    async def _ask_to_end(self, child: Child) -> None:
        patience = self.spec.restart.stop_timeout
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                wake_and_end(child.pid)
                await self._around.changes.until(lambda: child.ended.done() or self._at_once)
                while not (self._at_once or group_is_empty(child.pid)):  # noqa: ASYNC110
                    await asyncio.sleep(GROUP_POLL)
                return
        logger.warning("%s did not stop within %g s: killed", self.spec.name, patience)

    def _explain(self, code: int | None) -> str | None:
        """Why it ended, for people; None where we ended it on purpose."""
        if self._order is not None:
            return None
        if self._fault is not None:
            return self._fault.text
        how = "never ended" if code is None else describe_exit(code)
        said = None if code in SPEECHLESS else self.log.last_error()
        return f"{how}: {said}" if said else how

    def _judge(self, end: End, error: str | None) -> Verdict:
        if self._order is not None:
            return Verdict(ProcessState.STOPPED, 0.0, 0)
        verdict = judge(self.spec.restart, self._failures, end, random.random())  # noqa: S311
        self._failures = verdict.failures
        self._last_error = error
        next_try = None if verdict.delay is None else time.monotonic() + verdict.delay
        self._enter(verdict.state, next_try=next_try)
        return verdict

    async def _rest(self, verdict: Verdict) -> None:
        """Wait for the next try, an order, or the moment at which a stranger leaves our port."""
        until = math.inf if verdict.delay is None else time.monotonic() + verdict.delay
        while self._order is None and (left := until - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(
                    min(left, PORT_CHECK if self._blocked else LONGEST_REST)
                ):
                    await self._around.changes.until(lambda: self._order is not None)
            if self._blocked and port_is_free(self.spec.port or 0, self.spec.host):
                return

    def _enter(
        self,
        state: ProcessState,
        *,
        pid: int | None = None,
        error: str | None = None,
        next_try: float | None = None,
        health: str | None = None,
    ) -> None:
        """The one place where the state changes; `error` is the last one unless given."""
        before = self.status
        error = error or self._last_error
        if before.state is state and before.pid == pid and before.error == error:
            return
        self.status = ProcessStatus(
            name=self.spec.name,
            state=state,
            pid=pid,
            port=self.spec.port,
            since=time.monotonic(),
            restarts=before.restarts,
            next_try=next_try,
            error=error,
            health=health,
        )
        _log_change(before, self.status)
        self._around.changes.notify()


def _log_change(before: ProcessStatus, now: ProcessStatus) -> None:
    if before.state is now.state and before.error == now.error:
        return
    pid = f" (pid {now.pid})" if now.pid else ""
    why = f": {now.error}" if now.error and now.error != before.error else ""
    trouble = now.state in {ProcessState.BACKOFF, ProcessState.FATAL}
    level = logging.WARNING if trouble else logging.INFO
    logger.log(level, "%s %s%s%s", now.name, now.state, pid, why)
