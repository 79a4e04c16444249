"""The fleet in the foreground: a new one, or one that ran in the background and is taken over."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from mcpcp.config import find_config, load, runtime_dir
from mcpcp.control import ControlClient
from mcpcp.errors import FleetError, McpcpError, Unavailable
from mcpcp.fleet import Snapshot
from mcpcp.processes import kill
from mcpcp.supervisor.options import Ui, View
from mcpcp.supervisor.starting import prepare

STOP_PATIENCE = 300.0
"""Seconds that a stop or a restart may take; each of a server's deadlines is its config's."""


def launch_foreground(config: str | None, only: str | None, ui: Ui | None = None) -> int:
    """Run the fleet of that config until it is stopped; the exit code.

    Errors are told here, in one line: `launch_servers.py` has no other place for them.
    """
    try:
        path = find_config(config)
        chosen = ui or choose_ui()
        running = _running(path)
        if running is not None:
            return _take_over(running, path, chosen)
        names = tuple(filter(None, only.split(","))) if only is not None else None
        prepared = prepare(path, only=names, ui=chosen)
        for warning in prepared.config.warnings:
            sys.stderr.write(f"warning: {warning}\n")
        if prepared.new_key:
            sys.stderr.write(f"made the signing key {prepared.new_key} in keys/\n")
        from mcpcp.supervisor.guard import run_guard

        return run_guard(prepared.options)
    except McpcpError as error:
        sys.stderr.write(f"mcpcp: {error}\n")
        return error.exit_code


def choose_ui() -> Ui:
    """The table where a person watches, lines elsewhere."""
    smart = os.environ.get("TERM", "") not in {"", "dumb"} or sys.platform == "win32"
    return "table" if smart and sys.stdout.isatty() else "plain"


def _running(path: Path) -> ControlClient | None:
    try:
        return ControlClient.connect(runtime_dir(path))
    except Unavailable:
        return None


def _take_over(client: ControlClient, path: Path, ui: Ui) -> int:
    with client:
        status = Snapshot.from_wire(client.ask("status"))
        if not status.background:
            raise FleetError(already_running(status))
        sys.stderr.write(f"taking over the fleet that runs in the background (pid {status.pid})\n")
        return _Adoption(client, path, ui).run()


def already_running(status: Snapshot) -> str:
    """Where the first one is, and what can be done about it."""
    pid = status.guard or status.pid
    since = time.strftime("%H:%M", time.localtime(time.time() - _age(status)))
    return (
        f"the servers of {status.config} run already, since {since}, started by pid {pid}. "
        "See them: mcpcp status. Stop them: mcpcp down, or Ctrl+C where they were started."
    )


def _age(status: Snapshot) -> float:
    return max(0.0, time.monotonic() - status.started)


class _Adoption:
    """A background fleet shown here; it stops when this process ends, however that comes."""

    def __init__(self, client: ControlClient, path: Path, ui: Ui) -> None:
        self._client = client
        self._path = path
        self._ui = ui
        self._signals = 0
        self._last: Snapshot | None = None

    def run(self) -> int:
        from mcpcp.supervisor.view import open_view

        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), self._on_signal)
        with open_view(self._ui, load(self._path), self._stop) as view:
            for line in self._client.adopt():
                self._show(view, line)
            view.finish(self._summary())
        return 0

    def _show(self, view: View, line: dict[str, Any]) -> None:
        snapshot = Snapshot.from_wire(line)
        before = {row.name: row.state for row in self._last.fleet.processes} if self._last else {}
        for row in snapshot.fleet.processes:
            if before.get(row.name) != row.state:
                view.log("supervisor", f"{row.name} {row.state} {row.error or ''}".rstrip())
        self._last = snapshot
        view.update(snapshot)

    def _summary(self) -> str:
        count = len(self._last.servers) if self._last else 0
        return f"stopped {count} servers and the gateway"

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._signals += 1
        if self._signals == 1:
            self._stop()
        elif self._last:
            # The guard sees its supervisor end, and ends everything below it at once.
            kill(self._last.pid)

    def _stop(self) -> None:
        # A thread: the answer comes when the fleet has stopped, and meanwhile it is shown.
        threading.Thread(target=self._ask_to_stop, daemon=True).start()

    def _ask_to_stop(self) -> None:
        with suppress(McpcpError), ControlClient.connect(runtime_dir(self._path)) as client:
            client.ask("stop", timeout=STOP_PATIENCE)
