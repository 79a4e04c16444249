"""`mcpcp up`, `down`, `status`, `restart`, `logs`: the fleet as a person handles it."""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from pathlib import Path

import click

from mcpcp.cli.launching import STOP_PATIENCE, launch_foreground
from mcpcp.cli.options import config_option
from mcpcp.config import Config, find_config, load, runtime_dir
from mcpcp.control import ControlClient
from mcpcp.errors import FleetError, Unavailable
from mcpcp.fleet import FleetState, ProcessState, ProcessStatus, Snapshot
from mcpcp.names import server_of
from mcpcp.supervisor import lock
from mcpcp.supervisor.options import Ui
from mcpcp.supervisor.starting import unknown

READY_PATIENCE = 60.0
NOT_RUNNING = 3
"""The exit code of `status` without a fleet, as systemctl's."""


@click.command()
@click.option("--background", is_flag=True, help="Start them and give the prompt back.")
@click.option("--only", metavar="NAMES", help="Only these servers, separated by commas.")
@click.option("--plain", "ui", flag_value="plain", help="Log lines instead of the table.")
@click.option("--json", "ui", flag_value="json", help="Events as JSON, one object a line.")
@config_option
def up(background: bool, only: str | None, ui: Ui | None, config: str | None) -> None:
    """Start the servers and the gateway; Ctrl+C stops them.

    \b
    mcpcp up
    mcpcp up --only mcp1,mcp3 --plain
    mcpcp up --background && mcpcp status

    A fleet that runs in the background already is taken over and shown.
    """
    if background:
        _start_in_background(config, only)
        return
    sys.exit(launch_foreground(config, only, ui))


def _start_in_background(config: str | None, only: str | None) -> None:
    from mcpcp.supervisor.background import ensure_fleet

    if only:
        raise click.UsageError(
            "--only is for a fleet in the foreground; disable servers in the config"
        )
    path = find_config(config)
    with ControlClient.connect(ensure_fleet(path)) as client:
        status = _await_ready(client)
    click.echo(f"the servers of {path} run in the background (pid {status.guard or status.pid})")
    click.echo("see them: mcpcp status   stop them: mcpcp down", err=True)


def _await_ready(client: ControlClient) -> Snapshot:
    """Until every server that can start has, so that a script's next line finds them."""
    deadline = time.monotonic() + READY_PATIENCE
    while True:
        snapshot = Snapshot.from_wire(client.ask("status"))
        if snapshot.ready or time.monotonic() > deadline:
            return snapshot
        time.sleep(0.05)


@click.command()
@config_option
def down(config: str | None) -> None:
    """Stop the servers and the gateway, wherever they were started.

    \b
    mcpcp down
    """
    path = find_config(config)
    place = runtime_dir(path)
    try:
        client = ControlClient.connect(place)
    except Unavailable:
        click.echo(f"nothing runs for {path}")
        return
    with client, suppress(Unavailable):  # it may end without a word
        client.ask("stop", timeout=STOP_PATIENCE)
    lock.wait_released(place, STOP_PATIENCE)
    click.echo(f"stopped the servers of {path}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help='For scripts: {"servers": [...], ...}.')
@config_option
def status(as_json: bool, config: str | None) -> None:
    """Show each server: state, pid, port, restarts, last error. Exit code 3: nothing runs.

    \b
    mcpcp status
    mcpcp status --json | jq '.servers[] | {name, state}'
    """
    path = find_config(config)
    try:
        with ControlClient.connect(runtime_dir(path)) as client:
            snapshot = Snapshot.from_wire(client.ask("status"))
    except Unavailable:
        snapshot = _nothing_runs(path)
    if as_json:
        click.echo(json.dumps({**snapshot.to_wire(), "running": bool(snapshot.pid)}, indent=2))
    else:
        _print_status(snapshot, path)
    sys.exit(0 if snapshot.pid else NOT_RUNNING)


def _nothing_runs(path: Path) -> Snapshot:
    rows = (
        ProcessStatus(one.name, ProcessState.STOPPED, port=one.port)
        for server in load(path).active.values()
        for one in server.each()
    )
    return Snapshot(FleetState(0, tuple(rows)), config=str(path))


def _print_status(snapshot: Snapshot, path: Path) -> None:
    from rich.console import Console

    from mcpcp.supervisor.table import calls, rows_of, servers_table, troubles

    if not snapshot.pid:
        click.echo(f"nothing runs for {path}; start it with: mcpcp up")
        return
    console = Console(highlight=False)
    width = console.width if console.is_terminal else 160
    console = Console(highlight=False, width=width)
    now = time.monotonic()
    console.print(servers_table(rows_of(snapshot), now, width))
    console.print(calls(snapshot))
    for trouble in troubles(snapshot, now, width):
        console.print(trouble)


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@config_option
def restart(names: tuple[str, ...], config: str | None) -> None:
    """Stop a server and start it again; returns when it answers.

    \b
    mcpcp restart mcp1
    mcpcp restart gateway

    Of a server with replicas one is restarted after the other; NAME.2 is the second alone.
    """
    path = find_config(config)
    for name in names:
        with _fleet(path) as client:
            patience = STOP_PATIENCE * max(1, len(_pids(client, name)))
            client.ask("restart", timeout=patience, name=name)
            pids = _pids(client, name)
        which = f" (pid {', '.join(map(str, pids))})" if pids else ""
        click.echo(f"restarted {name}{which}")


def _pids(client: ControlClient, name: str) -> list[int]:
    """The processes that go by that name: of a server, or one replica."""
    answer = client.ask("status")
    rows = [row for row in (*answer["servers"], answer["gateway"]) if row.get("pid")]
    alone = [row["pid"] for row in rows if row["name"] == name.removesuffix(".1")]
    return alone if "." in name else [r["pid"] for r in rows if server_of(r["name"]) == name]


def _fleet(path: Path) -> ControlClient:
    try:
        return ControlClient.connect(runtime_dir(path))
    except Unavailable:
        raise FleetError(f"nothing runs for {path}; start it with: mcpcp up") from None


@click.command()
@click.argument("name", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines, until Ctrl+C.")
@click.option("-n", "--lines", default=100, show_default=True, help="How many of the last lines.")
@click.option("--request", metavar="ID", help="All lines of this request, of every process.")
@config_option
def logs(
    name: str | None, follow: bool, lines: int, request: str | None, config: str | None
) -> None:
    """Print what a server wrote last, or all that was written about one request.

    \b
    mcpcp logs mcp1
    mcpcp logs gateway -f
    mcpcp logs --request 5f0c1d2e-1a

    A request's id is in the answer's X-Request-Id and in the audit log.
    """
    settings = load(find_config(config))
    if request is not None:
        _print_request(settings, request)
    elif name is None:
        raise click.UsageError("whose? Name a server, gateway or supervisor, or give --request ID")
    else:
        _print_log(settings, name, lines, follow=follow)


def _print_request(settings: Config, request: str) -> None:
    from mcpcp.cli.gathering import gather
    from mcpcp.supervisor.logs import plain_text

    found = gather(settings, request)
    width = max((len(line.source) for line in found), default=0)
    for line in found:
        for text in line.text.splitlines():
            click.echo(f"{line.source:{width}} | {plain_text(text)}")
    if not found:
        raise FleetError(f"nothing is written of a request {request!r} in {settings.data_dir}")


def _print_log(settings: Config, name: str, lines: int, *, follow: bool) -> None:
    from mcpcp.cli.following import follow_file, last_lines

    each = [one.name for server in settings.servers.values() for one in server.each()]
    known = [*each, "gateway", "supervisor", "fleet"]
    name = name.removesuffix(".1")
    path = settings.data_dir / "logs" / f"{name}.log"
    if name not in known:
        raise FleetError(unknown(name, known))
    if not path.exists() and not follow:
        raise FleetError(f"{name} has written nothing yet ({path})")
    try:
        for line in follow_file(path, lines) if follow else last_lines(path, lines):
            click.echo(line)
    except KeyboardInterrupt:
        click.echo(err=True)
