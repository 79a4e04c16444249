"""`mcpcp audit`: the record of every call."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from mcpcp import audit as records
from mcpcp.cli.options import config_option, json_option, load_config
from mcpcp.errors import ConfigError

_OWN = frozenset({"n", "ts", "hash"})


@click.group()
def audit() -> None:
    """Check and read the record of every call.

    \b
    mcpcp audit verify
    mcpcp audit tail -n 50
    """


@audit.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@json_option
@config_option
def verify(file: Path | None, as_json: bool, config: str | None) -> None:
    """Check that no record was changed, cut off or taken out (exit code 1: one was).

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


@audit.command()
@click.option("-n", "count", default=20, show_default=True, help="How many records.")
@json_option
@config_option
def tail(count: int, as_json: bool, config: str | None) -> None:
    """Show the newest records.

    \b
    mcpcp audit tail
    mcpcp audit tail -n 1000 --json | jq 'select(.outcome == "denied")'
    """
    logs = _logs(None, load_config(config).audit_path)
    newest = deque(sorted(_read(logs), key=lambda r: float(r.get("ts", 0.0))), max(count, 0))
    for record in newest:
        click.echo(json.dumps(record) if as_json else _line(record))


def _read(logs: Iterable[Path]) -> Iterator[dict[str, Any]]:
    for log in logs:
        if not log.exists():
            continue
        with log.open("rb") as lines:
            for line in lines:
                try:
                    record = json.loads(line)
                except ValueError:
                    continue  # `verify` is the one to complain
                if isinstance(record, dict):
                    yield record


def _line(record: dict[str, Any]) -> str:
    moment = datetime.fromtimestamp(float(record.get("ts", 0.0)), UTC)
    start = moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if "event" in record:
        rest = {k: v for k, v in record.items() if k not in _OWN and k != "event"}
        return f"{start} -- log {record['event']} {rest or ''}".rstrip()
    what = f"{record.get('server')}:{record.get('tool')}" if record.get("tool") else ""
    parts = (start, record.get("agent"), record.get("method"), what, record.get("outcome"))
    text = " ".join(str(p) for p in parts if p)
    reason = f" ({record['reason']})" if record.get("reason") else ""
    # Names came from clients: shown so that they can't drive a terminal.
    return f"{text}{reason} {record.get('duration_ms', 0):.1f} ms".encode("unicode_escape").decode()
