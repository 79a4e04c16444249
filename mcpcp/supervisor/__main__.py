"""`python -m mcpcp.supervisor`: what the guard starts; not for people."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from mcpcp.errors import McpcpError
from mcpcp.logs import configure, without_secrets
from mcpcp.processes import become_subreaper, open_pidfd
from mcpcp.supervisor import lock
from mcpcp.supervisor.guard import is_heard
from mcpcp.supervisor.inheritance import Place
from mcpcp.supervisor.logs import LogFile
from mcpcp.supervisor.options import FleetOptions, View
from mcpcp.supervisor.reloading import LiveConfig
from mcpcp.supervisor.remains import kill_rest
from mcpcp.supervisor.supervisor import Supervisor
from mcpcp.supervisor.view import open_view

logger = logging.getLogger(__name__)

GUARD_POLL = 1.0


class _LogHandler(logging.Handler):
    """Our own log: to the view as source "supervisor", and to a file."""

    def __init__(self, path: Path, view: View) -> None:
        super().__init__()
        self._file = LogFile(path)
        self._view = view

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        self.keep(record)
        if record.levelno >= logging.INFO:
            self._view.log("supervisor", without_secrets(record.getMessage()))

    def keep(self, record: logging.LogRecord) -> None:
        """Write a record to the file alone: the view has its own way to show it."""
        self._file.write(self.format(record).encode(errors="replace") + b"\n")


def main() -> int:
    """Run the fleet that the arguments describe: options as JSON, the guard's pid, the folder."""
    options = FleetOptions.from_wire(json.loads(sys.argv[1]))
    place = Place(Path(sys.argv[3]), int(sys.argv[2]), dict(os.environ))
    become_subreaper()
    code = 1
    try:
        code = asyncio.run(_run_to_the_end(options, place))
    except* (McpcpError, OSError) as errors:
        for error in _leaves(errors):
            sys.stderr.write(f"mcpcp: {error}\n")
            code = getattr(error, "exit_code", 1)
    finally:
        kill_rest(place.runtime_dir)
    return code


def _leaves(errors: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


async def _run_to_the_end(options: FleetOptions, place: Place) -> int:
    """Run the fleet; from then on no signal interrupts what is left to do.

    asyncio closes the pipe that its signal handlers write to before it takes the handlers away.
    """
    try:
        return await _run(options, place)
    finally:
        if sys.platform != "win32":
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


async def _run(options: FleetOptions, place: Place) -> int:
    loop = asyncio.get_running_loop()
    signals = _Signals(loop)
    _watch_guard(loop, place)
    live = LiveConfig(options.config, options.only)
    config = live.now
    with open_view(options.ui, config, signals.terminal_lost) as view:
        handler = _LogHandler(config.data_dir / "logs" / "supervisor.log", view)
        configure(config.logs.format, config.logs.level, handler)
        supervisor = Supervisor(options, live, place, view)
        signals.deliver_to(supervisor)
        summary = await supervisor.run()
        handler.keep(logger.makeRecord(__name__, logging.INFO, "", 0, summary, (), None))
        view.finish(summary)
    return 0


class _Signals:
    """Hears signals from the first moment, and keeps them until there is somebody to tell."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._early: list[int] = []
        self._tell = self._early.append
        for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
            number = getattr(signal, name, None)
            if number is not None and is_heard(number):
                self._listen(number)

    def deliver_to(self, supervisor: Supervisor) -> None:
        """Hand over what has come, and all that comes."""
        self._tell = supervisor.on_signal
        for number in self._early:
            supervisor.on_signal(number)

    def terminal_lost(self) -> None:
        """What the view calls, from its thread: the same as the signal for it."""
        hangup = getattr(signal, "SIGHUP", signal.SIGTERM)
        self._pass_on(hangup)

    def _listen(self, number: int) -> None:
        if sys.platform == "win32":
            signal.signal(number, lambda n, _: self._pass_on(n))
        else:
            self._loop.add_signal_handler(number, lambda: self._tell(number))

    def _pass_on(self, number: int) -> None:
        self._loop.call_soon_threadsafe(lambda: self._tell(number))


def _watch_guard(loop: asyncio.AbstractEventLoop, place: Place) -> None:
    """End everything at once when the guard has been killed: nobody is left to hear us."""
    pidfd = open_pidfd(place.guard)
    if pidfd is not None:
        loop.add_reader(pidfd, _die, place)
    _check_parent(loop, place, again=pidfd is None)


def _check_parent(loop: asyncio.AbstractEventLoop, place: Place, again: bool) -> None:
    if os.getppid() != place.guard:
        _die(place)
    if again:
        loop.call_later(GUARD_POLL, _check_parent, loop, place, again)


def _die(place: Place) -> None:
    kill_rest(place.runtime_dir)
    lock.remove(place.runtime_dir)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
