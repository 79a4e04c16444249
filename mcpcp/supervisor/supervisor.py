"""The supervisor: starts the fleet's processes, keeps them alive, and stops them in order.

Above: `__main__`, which the guard starts. Below: one ManagedProcess for each process, and the
services that all share. Everything runs in one event loop and one task group; whatever goes wrong
in it ends the fleet, and `__main__` kills what is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from mcpcp.config import Config, load
from mcpcp.config.environment import child_environment
from mcpcp.control import CONTROL_SOCKET, listen_private
from mcpcp.credentials import lent
from mcpcp.errors import FleetError, McpcpError
from mcpcp.fleet import (
    GATEWAY,
    FleetState,
    GatewayReport,
    ProcessState,
    ProcessStatus,
    Snapshot,
)
from mcpcp.logs import hide
from mcpcp.processes import FLEET_MARK, NAME_MARK
from mcpcp.scraping import load_token
from mcpcp.supervisor.changes import Changes
from mcpcp.supervisor.channel import FLEET_VARIABLE, FleetChannel
from mcpcp.supervisor.commands import Commands
from mcpcp.supervisor.exposition import Exposition
from mcpcp.supervisor.forking import ZYGOTE, Launcher, Zygote
from mcpcp.supervisor.logs import ProcessLog
from mcpcp.supervisor.options import FleetOptions, View
from mcpcp.supervisor.process import ManagedProcess, Surroundings
from mcpcp.supervisor.reaper import Reaper
from mcpcp.supervisor.sampler import Sampler
from mcpcp.supervisor.specs import ProcessSpec, left_out, plan, stop_order
from mcpcp.supervisor.watch import FileWatch

logger = logging.getLogger(__name__)

CREDENTIAL_VARIABLE: Final = "MCPCP_CREDENTIAL_FD"
NOT_INHERITED: Final = (CREDENTIAL_VARIABLE, FLEET_VARIABLE, "MCPCP_TOKEN")
SAMPLE_INTERVAL: Final = 2.0
PUBLISH_PAUSE: Final = 0.02
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


@dataclass(frozen=True, slots=True)
class Place:
    """Where a fleet lives: its runtime folder, who guards it, and the environment it was given."""

    runtime_dir: Path
    guard: int
    environ: Mapping[str, str]


class Supervisor:
    """One fleet, from its start to its end."""

    def __init__(
        self,
        options: FleetOptions,
        config: Config,
        watch: FileWatch,
        place: Place,
        view: View,
    ) -> None:
        self._options = options
        self._config = config
        self._watch = watch
        self._place = place
        self._view = view
        # The gateway expands the config's ${VARIABLES} itself, so it needs what we were given.
        self._gateway_environ = _marked(place, place.environ)
        self._environ = _marked(place, child_environment({}, place.environ))
        self._credential = secrets.token_hex(32)
        self._scrape_token = load_token(config.monitoring.token_file)
        for secret in (self._credential, self._scrape_token):
            hide(secret)
        self._exposition = Exposition(self._scrape_token, self.snapshot)
        self._plan = plan(config, options.only)
        self._processes: dict[str, ManagedProcess] = {}
        self._logs: dict[str, ProcessLog] = {}
        self._report = GatewayReport()
        self._config_error: str | None = None
        self._started = time.monotonic()
        self._stop_reason: str | None = None
        self._at_once = False
        self._stopped = False
        self._sampler = Sampler()
        self._commands = Commands(self)
        self._reaper = Reaper(self._on_orphan)
        self._zygote = self._make_zygote()
        self._channel: FleetChannel
        self._around: Surroundings
        self._process_tasks: asyncio.TaskGroup
        self.changes = Changes()

    # What others ask and tell, from the loop's thread

    @property
    def background(self) -> bool:
        """Whether the fleet has no terminal of its own."""
        return self._options.background

    @property
    def stopped(self) -> bool:
        """Whether every process has ended."""
        return self._stopped

    def ask_stop(self, reason: str) -> None:
        """Begin the graceful stop; asked again, it changes nothing."""
        if self._stop_reason is None:
            logger.info("stopping: %s", reason)
            self._stop_reason = reason
            for process in self._processes.values():
                if process.status.pid is None:
                    process.stop()  # what has not begun need not
            self._zygote.retire()
            self.changes.notify()

    def kill_now(self, reason: str) -> None:
        """End everything without asking."""
        self._at_once = True
        self.ask_stop(reason)
        for process in self._processes.values():
            process.stop_at_once()

    def on_signal(self, number: int) -> None:
        """The first one stops, the second one kills; a terminal that hangs up does so but once."""
        hangup = number == getattr(signal, "SIGHUP", None)
        insists = self._stop_reason is not None and not hangup
        act = self.kill_now if insists else self.ask_stop
        act("the terminal is gone" if hangup else "as asked")

    async def restart(self, name: str) -> None:
        """Stop and start a server, and wait until it serves; raises FleetError when it does not.

        Replicas take turns, so that the server is never away.
        """
        processes = self._called(name)
        for process in processes:
            await self._restart(process)
        if not processes:
            self._restart_elsewhere(name)

    def _called(self, name: str) -> list[ManagedProcess]:
        """The processes that a person means: all of a server, or the one replica of that number."""
        first = name.removesuffix(".1")
        if first != name or name not in self._config.servers:
            return [p for p in (self._processes.get(first),) if p is not None]
        return [p for p in self._processes.values() if p.spec.server == name]

    async def _restart(self, process: ManagedProcess) -> None:
        name = process.spec.name
        before = process.starts
        process.restart()
        policy = process.spec.restart
        try:
            async with asyncio.timeout(policy.stop_timeout + policy.start_timeout + RESTART_MARGIN):
                await self.changes.until(lambda: process.finished or _has_tried(process, before))
        except TimeoutError:
            raise FleetError(f"{name} has not come up yet") from None
        if process.status.state is not ProcessState.RUNNING:
            raise FleetError(f"{name} is {process.status.state}: {process.status.error}")

    def _restart_elsewhere(self, name: str) -> None:
        server = self._config.servers.get(name)
        if server is None:
            known = ", ".join([*self._processes, *self._gateways_servers()])
            raise FleetError(f"there is no server {name!r}: there are {known}")
        if server.managed_by != "gateway":
            raise FleetError(f"{name} is not started by this fleet")
        self._channel.send({"restart": name})

    def _gateways_servers(self) -> Iterator[str]:
        return (n for n, s in self._config.active.items() if s.managed_by == "gateway")

    def snapshot(self) -> Snapshot:
        """All that can be told now."""
        return Snapshot(
            fleet=self._fleet_state(),
            gateway=self._report,
            pid=os.getpid(),
            guard=self._place.guard,
            config=str(self._config.path),
            started=self._started,
            ready=self._is_ready(),
            stopping=self._stop_reason is not None,
            config_error=self._config_error,
            background=self._options.background,
            idle_exit=self._idle_exit(),
        )

    def _fleet_state(self) -> FleetState:
        left = (
            ProcessStatus(name, ProcessState.STOPPED, error="not started: --only leaves it out")
            for name in left_out(self._config, self._options.only)
        )
        return FleetState(
            self.changes.version, (*(p.status for p in self._processes.values()), *left)
        )

    def _is_ready(self) -> bool:
        gateway = self._processes.get(GATEWAY)
        serves = gateway is not None and gateway.status.state is ProcessState.RUNNING
        return serves and self._report.ready and all(p.settled for p in self._processes.values())

    def _idle_exit(self) -> float | None:
        if not self._options.background:
            return None
        asked = self._options.idle_exit
        return self._config.gateway.idle_exit if asked is None else asked

    # Its life

    async def run(self) -> str:
        """Run the fleet until it is told to stop; returns one line about how that went."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._channel = FleetChannel(tasks, self._hear_report)
                self._around = self._make_surroundings()
                control = self._place.runtime_dir / CONTROL_SOCKET
                async with listen_private(control, self._commands.serve):
                    services = [tasks.create_task(service) for service in self._services()]
                    await self._run_processes()
                    self._stopped = True
                    self.changes.notify()
                    await self._commands.answer_stops()
                    for service in services:
                        service.cancel()
                    self._channel.close()
        finally:
            self._view.update(self.snapshot())
            for log in self._logs.values():
                log.close()
        return self._summary()

    def _services(self) -> Iterator[Coroutine[Any, Any, None]]:
        if sys.platform == "linux":
            yield self._zygote.run()
        yield self._publish()
        yield self._sample()
        yield self._follow_config()
        yield self._expose()
        if self._options.background:
            yield self._end_when_idle()

    async def _run_processes(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            self._process_tasks = tasks
            for spec in self._plan.values() if self._stop_reason is None else ():
                self._add(spec)
            await self.changes.until(lambda: self._stop_reason is not None)
            await self._stop_in_order()

    def _add(self, spec: ProcessSpec) -> None:
        process = ManagedProcess(spec, self._log(spec.name), self._around)
        self._processes[spec.name] = process
        self._process_tasks.create_task(process.run())

    async def _stop_in_order(self) -> None:
        """The gateway first, which lets calls in flight end; then what nothing depends on now."""
        processes = dict(self._processes)  # a reload that is still at work may remove some
        order = stop_order(process.spec for process in processes.values())
        waiting = dict(processes)
        while waiting:
            for name, process in list(waiting.items()):
                before = [processes[n] for n in order[name]]
                if self._at_once or _may_stop(process, before):
                    waiting.pop(name).stop()
            if waiting:
                await self.changes.after(self.changes.version)

    def _make_zygote(self) -> Zygote:
        return Zygote(
            self._reaper, self._environ, self._config.root, lambda: self._log(ZYGOTE).open()
        )

    def _make_surroundings(self) -> Surroundings:
        return Surroundings(
            launcher=Launcher(self._reaper, self._zygote, self._environ),
            changes=self.changes,
            environment=self._environment,
            attach=self._attach,
            state_of=self._state_of,
            sweep=self._sweep,
        )

    def _state_of(self, name: str) -> ProcessState | None:
        """How a server is; one with replicas is as the best of them."""
        states = {p.status.state for p in self._processes.values() if p.spec.server == name}
        return min(states, key=_HOPE.index, default=None)

    def _log(self, name: str) -> ProcessLog:
        if name not in self._logs:
            path = self._config.data_dir / "logs" / f"{name}.log"
            self._logs[name] = ProcessLog(name, path, self._view.log)
        return self._logs[name]

    def _environment(self, spec: ProcessSpec) -> Mapping[str, str]:
        base = self._gateway_environ if spec.name == GATEWAY else self._environ
        return {**base, **spec.env, NAME_MARK: spec.name}

    def _attach(self, spec: ProcessSpec) -> contextlib.AbstractContextManager[Mapping[str, int]]:
        if spec.name == GATEWAY:
            self._report = GatewayReport(calls=self._report.calls)
            return self._channel.attach(self._greeting)
        scrape = self._scrape_token if spec.own else None
        return _lend(lent(self._credential, spec.server, spec.calls, scrape))

    def _greeting(self) -> Iterator[dict[str, Any]]:
        yield {"credential": self._credential}
        yield {"fleet": self._fleet_state().to_wire()}

    # Services

    async def _publish(self) -> None:
        """Tell view and gateway what changed; figures are for the view alone."""
        told: tuple[ProcessStatus, ...] = ()
        while True:
            version = self.changes.version
            snapshot = self.snapshot()
            self._view.update(snapshot)
            if (now := _without_figures(snapshot.fleet)) != told:
                told = now
                self._channel.send({"fleet": snapshot.fleet.to_wire()})
            await asyncio.sleep(PUBLISH_PAUSE)
            await self.changes.after(version)

    def _hear_report(self, report: GatewayReport) -> None:
        if report != self._report:
            self._report = report
            self.changes.notify()

    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(SAMPLE_INTERVAL)
            running = {n: p for n, p in self._processes.items() if p.status.pid is not None}
            leaders = {n: p.status.pid for n, p in running.items() if p.status.pid is not None}
            for name, sample in self._sampler.sample(leaders).items():
                running[name].measure(sample.cpu_percent, sample.memory_bytes)
                self._check_memory(running[name], sample.memory_bytes)
            self._sampler.note_orphans(self._reaper.pids)
            self.changes.notify()

    def _check_memory(self, process: ManagedProcess, used: int) -> None:
        limit = process.spec.limits.memory_bytes
        if limit is not None and used > limit:
            process.fail(f"used {used >> 20} MiB of memory, its limit is {limit >> 20} MiB")

    async def _follow_config(self) -> None:
        path = self._config.path
        while True:
            await self._watch.changed()
            try:
                config = load(path)
                plan(config, self._options.only)
            except (McpcpError, OSError, ValueError) as error:
                self._config_error = str(error)
                logger.warning("the changed config is not used: %s", error)
            else:
                self._config_error = None
                await self._use(config)
            self.changes.notify()

    async def _use(self, config: Config) -> None:
        """Touch what differs; a server that is gone is stopped before a new one takes its port."""
        logger.info("the config has changed")
        self._config = config
        self._plan = planned = plan(config, self._options.only)
        gone = [name for name in self._processes if name not in planned]
        for name in gone:
            self._processes[name].stop()
        await self.changes.until(lambda: all(self._processes[n].finished for n in gone))
        for name in gone:
            del self._processes[name]
            self._logs.pop(name).close()
        for name, spec in planned.items():
            if name in self._processes:
                self._processes[name].adapt(spec)
            elif self._stop_reason is None:
                self._add(spec)
        self._channel.send({"reload": True})

    async def _expose(self) -> None:
        """Serve the metrics, where the config says: another place in it is another listener."""
        while True:
            place = self._config.monitoring
            async with asyncio.TaskGroup() as tasks:
                serving = tasks.create_task(self._exposition.run(place))
                await self.changes.until(lambda: self._config.monitoring != place)  # noqa: B023
                serving.cancel()

    async def _end_when_idle(self) -> None:
        while minutes := self._idle_exit():  # 0 means: never
            await self.changes.until(self._is_idle)
            try:
                async with asyncio.timeout(minutes * 60):
                    await self.changes.until(lambda: not self._is_idle())
            except TimeoutError:
                self.ask_stop(f"nobody has been connected for {minutes:g} minutes")
                return

    def _is_idle(self) -> bool:
        """Nobody is connected, although one could be: a fleet that only starts is not idle."""
        serves = self._state_of(GATEWAY) is ProcessState.RUNNING
        return serves and self._report.connections == 0 and self._commands.adopters == 0

    # Orphans

    def _sweep(self, name: str, leader: int) -> None:
        killed = self._sampler.sweep(name, leader, self._reaper.pids)
        if killed:
            logger.info("%s had left %d processes behind: killed", name, killed)

    def _on_orphan(self, pid: int) -> None:
        logger.debug("adopted process %d has ended", pid)

    def _summary(self) -> str:
        servers = sum(name != GATEWAY for name in self._processes)
        how = "killed" if self._at_once else "stopped"
        lasted = _duration(time.monotonic() - self._started)
        return f"{how} {servers} servers and the gateway after {lasted}; {self._report.calls} calls"


def _marked(place: Place, environ: Mapping[str, str]) -> dict[str, str]:
    kept = {n: v for n, v in environ.items() if n not in NOT_INHERITED}
    # What a server prints must reach its log at once, also where it prints to a pipe.
    return {"PYTHONUNBUFFERED": "1", **kept, FLEET_MARK: str(place.runtime_dir)}


@contextlib.contextmanager
def _lend(told: bytes) -> Iterator[Mapping[str, int]]:
    """A pipe that holds the secrets and its end already."""
    read_end, write_end = os.pipe()
    try:
        os.write(write_end, told)
        os.close(write_end)
        yield {CREDENTIAL_VARIABLE: read_end} if sys.platform != "win32" else {}
    finally:
        os.close(read_end)


def _may_stop(process: ManagedProcess, before: list[ManagedProcess]) -> bool:
    """Whether nobody needs the process any more, or it serves nobody anyhow."""
    serves = process.status.state is ProcessState.RUNNING
    return not serves or all(other.finished for other in before)


def _has_tried(process: ManagedProcess, before: int) -> bool:
    """Whether a start after the first `before` ones has come to something."""
    busy = {ProcessState.STARTING, ProcessState.STOPPING, ProcessState.STOPPED}
    return process.starts > before and process.status.state not in busy


def _without_figures(fleet: FleetState) -> tuple[ProcessStatus, ...]:
    return tuple(replace(p, cpu_percent=None, memory_bytes=None) for p in fleet.processes)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
