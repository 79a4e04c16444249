"""`mcpcp audit`: the record of every call."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from mcpcp import audit as records
from mcpcp.audit import reader
from mcpcp.audit.reading import Filter, Record, when
from mcpcp.cli.options import Moment, config_option, json_option, load_config
from mcpcp.errors import ConfigError

Command = TypeVar("Command", bound=Callable[..., Any])

NOTHING_FOUND = 1
"""The exit code of a search that finds nothing, as grep's."""

_OWN = frozenset({"n", "ts", "hash"})


@click.group()
def audit() -> None:
    """Check, read and search the record of every call.

    \b
    mcpcp audit verify
    mcpcp audit tail -n 50
    mcpcp audit search --agent claude --outcome denied --since 24h
    """


@audit.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@json_option
@config_option
def verify(file: Path | None, as_json: bool, config: str | None) -> None:
    """Check that no record was changed, cut off or taken out (exit code 1: one was).

    The first broken record is named, with its file and line.

    \b
    mcpcp audit verify
    mcpcp audit verify /backup/audit/audit.jsonl
    """
    loaded = load_config(config)
    verdicts = [records.verify(log, loaded.keys_dir) for log in _logs(file, loaded.audit_path)]
    if as_json:
        click.echo(json.dumps([_as_dict(v) for v in verdicts], indent=2))
    else:
        for verdict in verdicts:
            click.echo(_in_words(verdict))
    sys.exit(0 if all(v.ok for v in verdicts) else 1)


def _logs(file: Path | None, default: Path) -> list[Path]:
    logs = [file] if file else records.chains(default)
    if not logs:
        raise ConfigError(f"there is no audit log at {default}")
    return logs


def _as_dict(verdict: records.Verdict) -> dict[str, Any]:
    return {
        "log": str(verdict.log),
        "ok": verdict.ok,
        "records": verdict.records,
        "broken": verdict.broken,
        "signed_by": verdict.signed_by,
    }


def _in_words(verdict: records.Verdict) -> str:
    if verdict.ok:
        return f"{verdict.log}: {verdict.records} records, whole; signed by {verdict.signed_by}"
    return f"BROKEN {verdict.broken}"


def filters(command: Command) -> Command:
    """The options that say which records are meant; the command gets them as `wanted`."""
    options = (
        click.option("--agent", metavar="NAME", help="Of this agent; * stands for anything."),
        click.option("--server", metavar="NAME", help="Of this server's tools."),
        click.option("--tool", metavar="NAME", help="Of this tool: echo, mcp1:echo, mcp1:*."),
        click.option(
            "--outcome",
            "outcomes",
            multiple=True,
            type=click.Choice(get_args(records.Outcome)),
            help="That ended so; may be repeated.",
        ),
        click.option("--request", metavar="ID", help="Of the request with this id."),
        click.option("--since", type=Moment(), help="From then on: 10m, 24h, 2026-11-20T08:00."),
        click.option("--until", type=Moment(), help="Up to then."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@audit.command()
@click.option("-n", "count", default=20, show_default=True, help="How many records.")
@click.option("-f", "--follow", is_flag=True, help="Go on with new ones, until Ctrl+C.")
@filters
@json_option
@config_option
def tail(count: int, follow: bool, as_json: bool, config: str | None, **wanted: Any) -> None:
    """Show the newest records, or those of them that are meant.

    \b
    mcpcp audit tail
    mcpcp audit tail -f --outcome denied --outcome unknown
    mcpcp audit tail -n 1000 --json | jq .duration_ms
    """
    path = load_config(config).audit_path
    logs = _logs(None, path)
    meant = _filter(wanted)
    try:
        _show(
            reader.follow(path, meant, count) if follow else reader.newest(logs, meant, count),
            as_json=as_json,
        )
    except KeyboardInterrupt:
        click.echo(err=True)


@audit.command()
@filters
@json_option
@config_option
def search(as_json: bool, config: str | None, **wanted: Any) -> None:
    """Show every record that is meant, the oldest first (exit code 1: there is none).

    \b
    mcpcp audit search --agent claude --since 24h
    mcpcp audit search --tool 'mcp2:*' --outcome error --outcome timeout
    mcpcp audit search --request 5f0c1d2e-1a
    """
    logs = _logs(None, load_config(config).audit_path)
    if not _show(filter(_filter(wanted), reader.records(logs)), as_json=as_json):
        click.echo("no record is like that", err=True)
        sys.exit(NOTHING_FOUND)


def _filter(wanted: dict[str, Any]) -> Filter:
    return Filter(**{**wanted, "outcomes": frozenset(wanted["outcomes"])})


def _show(found: Iterable[Record], *, as_json: bool) -> int:
    """Print them; how many there were."""
    shown = 0
    for record in found:
        click.echo(json.dumps(record) if as_json else line_of(record))
        shown += 1
    return shown


def line_of(record: Record) -> str:
    """One record for a person."""
    moment = datetime.fromtimestamp(when(record), UTC)
    start = moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if "event" in record:
        rest = {k: v for k, v in record.items() if k not in _OWN and k != "event"}
        return f"{start} -- log {record['event']} {rest or ''}".rstrip()
    what = f"{record.get('server')}:{record.get('tool')}" if record.get("tool") else ""
    parts = (start, record.get("agent"), record.get("method"), what, record.get("outcome"))
    text = " ".join(str(p) for p in parts if p)
    reason = f" ({record['reason']})" if record.get("reason") else ""
    request = f" request={record['request_id']}" if record.get("request_id") else ""
    line = f"{text}{reason} {record.get('duration_ms', 0):.1f} ms{request}"
    # Names came from clients: shown so that they can't drive a terminal.
    return line.encode("unicode_escape").decode()
