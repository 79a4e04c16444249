"""The supervisor: starts the fleet's processes, keeps them alive, and stops them in order.

Above: `__main__`, which the guard starts. Below: the roster of the processes, the config in force,
what the processes inherit, and the services that all share. Everything runs in one event loop and
one task group; whatever goes wrong in it ends the fleet, and `__main__` kills what is left.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Final

from mcpcp.control import CONTROL_SOCKET, listen_private
from mcpcp.errors import FleetError
from mcpcp.fleet import (
    GATEWAY,
    FleetState,
    GatewayReport,
    ProcessState,
    ProcessStatus,
    Snapshot,
)
from mcpcp.scraping import load_token
from mcpcp.supervisor.changes import Changes
from mcpcp.supervisor.channel import FleetChannel
from mcpcp.supervisor.commands import Commands
from mcpcp.supervisor.exposition import Exposition
from mcpcp.supervisor.forking import ZYGOTE, Launcher, Zygote
from mcpcp.supervisor.inheritance import Inheritance, Place
from mcpcp.supervisor.logs import ProcessLogs
from mcpcp.supervisor.measuring import Measuring
from mcpcp.supervisor.options import FleetOptions, View
from mcpcp.supervisor.process import ManagedProcess, Surroundings
from mcpcp.supervisor.reaper import Reaper
from mcpcp.supervisor.reloading import LiveConfig
from mcpcp.supervisor.roster import Roster
from mcpcp.supervisor.specs import ProcessSpec

logger = logging.getLogger(__name__)

PUBLISH_PAUSE: Final = 0.02


class Supervisor:
    """One fleet, from its start to its end."""

    def __init__(self, options: FleetOptions, live: LiveConfig, place: Place, view: View) -> None:
        self._options = options
        self._live = live
        self._place = place
        self._view = view
        scrape_token = load_token(live.now.monitoring.token_file)
        self._inheritance = Inheritance(place, scrape_token)
        self._exposition = Exposition(scrape_token, self.snapshot)
        self._logs = ProcessLogs(lambda: self._live.now.data_dir / "logs", view.log)
        self._report = GatewayReport()
        self._started = time.monotonic()
        self._stop_reason: str | None = None
        self._stopped = False
        self.changes = Changes()
        self._roster = Roster(self.changes, self._make, self._logs.end)
        self._commands = Commands(self)
        self._reaper = Reaper(self._on_orphan)
        self._zygote = self._make_zygote()
        self._measuring = Measuring(self._roster, self._reaper, self.changes)
        self._channel: FleetChannel
        self._around: Surroundings

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
            self._zygote.retire()
            self._roster.stop()

    def kill_now(self, reason: str) -> None:
        """End everything without asking."""
        self.ask_stop(reason)
        self._roster.stop(at_once=True)

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
            await self._roster.restart(process)
        if not processes:
            self._restart_elsewhere(name)

    def _called(self, name: str) -> list[ManagedProcess]:
        """The processes that a person means: all of a server, or the one replica of that number."""
        first = name.removesuffix(".1")
        if first != name or name not in self._live.now.servers:
            return [p for p in (self._roster.get(first),) if p is not None]
        return self._roster.replicas(name)

    def _restart_elsewhere(self, name: str) -> None:
        config = self._live.now
        server = config.servers.get(name)
        if server is None:
            gateways = (n for n, s in config.active.items() if s.managed_by == "gateway")
            known = ", ".join([*(p.spec.name for p in self._roster), *gateways])
            raise FleetError(f"there is no server {name!r}: there are {known}")
        if server.managed_by != "gateway":
            raise FleetError(f"{name} is not started by this fleet")
        self._channel.send({"restart": name})

    def snapshot(self) -> Snapshot:
        """All that can be told now."""
        return Snapshot(
            fleet=self._fleet_state(),
            gateway=self._report,
            pid=os.getpid(),
            guard=self._place.guard,
            config=str(self._live.now.path),
            started=self._started,
            ready=self._is_ready(),
            stopping=self._stop_reason is not None,
            config_error=self._live.error,
            background=self._options.background,
            idle_exit=self._idle_exit(),
        )

    def _fleet_state(self) -> FleetState:
        left = (
            ProcessStatus(name, ProcessState.STOPPED, error="not started: --only leaves it out")
            for name in self._live.left_out
        )
        return FleetState(self.changes.version, (*(p.status for p in self._roster), *left))

    def _is_ready(self) -> bool:
        serves = self._roster.state_of(GATEWAY) is ProcessState.RUNNING
        return serves and self._report.ready and all(p.settled for p in self._roster)

    def _idle_exit(self) -> float | None:
        if not self._options.background:
            return None
        asked = self._options.idle_exit
        return self._live.now.gateway.idle_exit if asked is None else asked

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
                    await self._roster.run(self._live.plan.values())
                    self._stopped = True
                    self.changes.notify()
                    await self._commands.answer_stops()
                    for service in services:
                        service.cancel()
                    self._channel.close()
        finally:
            self._view.update(self.snapshot())
            self._logs.close()
        return self._summary()

    def _services(self) -> Iterator[Coroutine[Any, Any, None]]:
        if sys.platform == "linux":
            yield self._zygote.run()
        yield self._publish()
        yield self._measuring.run()
        yield self._follow_config()
        yield self._expose()
        if self._options.background:
            yield self._end_when_idle()

    def _make_zygote(self) -> Zygote:
        return Zygote(
            self._reaper,
            self._inheritance.base,
            self._live.now.root,
            lambda: self._logs.of(ZYGOTE).open(),
        )

    def _make_surroundings(self) -> Surroundings:
        return Surroundings(
            launcher=Launcher(self._reaper, self._zygote, self._inheritance.base),
            changes=self.changes,
            environment=self._inheritance.environment,
            attach=self._attach,
            state_of=self._roster.state_of,
            sweep=self._measuring.sweep,
        )

    def _make(self, spec: ProcessSpec) -> ManagedProcess:
        return ManagedProcess(spec, self._logs.of(spec.name), self._around)

    def _attach(self, spec: ProcessSpec) -> AbstractContextManager[Mapping[str, int]]:
        if spec.name == GATEWAY:
            self._report = GatewayReport(calls=self._report.calls)
            return self._channel.attach(self._greeting)
        return self._inheritance.lend(spec)

    def _greeting(self) -> Iterator[dict[str, Any]]:
        yield {"credential": self._inheritance.credential}
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

    async def _follow_config(self) -> None:
        while True:
            if await self._live.changed():
                await self._roster.become(self._live.plan)
                self._channel.send({"reload": True})
            self.changes.notify()

    async def _expose(self) -> None:
        """Serve the metrics, where the config says: another place in it is another listener."""
        while True:
            place = self._live.now.monitoring
            async with asyncio.TaskGroup() as tasks:
                serving = tasks.create_task(self._exposition.run(place))
                await self.changes.until(lambda: self._live.now.monitoring != place)  # noqa: B023
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
        serves = self._roster.state_of(GATEWAY) is ProcessState.RUNNING
        return serves and self._report.connections == 0 and self._commands.adopters == 0

    def _on_orphan(self, pid: int) -> None:
        logger.debug("adopted process %d has ended", pid)

    def _summary(self) -> str:
        servers = sum(process.spec.name != GATEWAY for process in self._roster)
        how = "killed" if self._roster.at_once else "stopped"
        lasted = _duration(time.monotonic() - self._started)
        return f"{how} {servers} servers and the gateway after {lasted}; {self._report.calls} calls"


def _without_figures(fleet: FleetState) -> tuple[ProcessStatus, ...]:
    return tuple(replace(p, cpu_percent=None, memory_bytes=None) for p in fleet.processes)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
