"""`mcpcp doctor`: what this machine lacks, for which server, and how to get it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict

import click

from mcpcp.cli.checks import Finding, Status, check_all
from mcpcp.cli.options import config_option, json_option
from mcpcp.config import find_config

_COLOURS = {Status.OK: "green", Status.WARNING: "yellow", Status.MISSING: "red"}


@click.command()
@json_option
@config_option
def doctor(as_json: bool, config: str | None) -> None:
    """Say what is missing here for which server, and how to get it (exit code 1: something is).

    \b
    mcpcp doctor
    mcpcp doctor --json | jq '.[] | select(.status == "missing")'
    """
    findings = check_all(find_config(config))
    if as_json:
        click.echo(json.dumps([asdict(f) for f in findings], indent=2))
    else:
        _print(findings)
    sys.exit(1 if any(f.status is Status.MISSING for f in findings) else 0)


def _print(findings: Iterable[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        text = Text(finding.detail)
        if finding.servers:
            text.append(f"  (for {', '.join(finding.servers)})", style="dim")
        if finding.fix and finding.status is not Status.OK:
            text.append(f"\n{finding.fix}", style="bold")
        status = Text(str(finding.status), style=_COLOURS[finding.status])
        table.add_row(status, Text(finding.what), text)
    Console(highlight=False).print(table)
