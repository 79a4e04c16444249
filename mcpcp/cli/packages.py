"""`mcpcp packages`: which packages agents may install into their sandboxes."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime

import click

from mcpcp.approvals import Approvals
from mcpcp.cli.options import config_option, hint, json_option, load_config, visible

_packages_argument = click.argument("names", nargs=-1, required=True, metavar="NAME[==VERSION]...")


@click.group()
def packages() -> None:
    """Look through the packages that agents want, and let them in.

    \b
    mcpcp packages list
    mcpcp packages approve NAME

    A package waits here when its name can be mistaken for a well-known one, or when the sandbox
    server is told to ask for more. What is on the blocklist can't be approved.
    """


@packages.command("list")
@json_option
@config_option
def list_(as_json: bool, config: str | None) -> None:
    """Show what waits for approval, and what is approved.

    \b
    mcpcp packages list
    mcpcp packages list --json | jq -r '.waiting[].package'
    """
    approvals = _approvals(config)
    waiting, approved = approvals.waiting(), approvals.approved()
    if as_json:
        found = {"waiting": [*map(asdict, waiting)], "approved": [*map(asdict, approved)]}
        click.echo(json.dumps(found, indent=2))
        return
    for request in waiting:
        agents = ", ".join(request.agents)
        line = f"waiting   {request.package}  {request.reason}; {_day(request.asked)}, for {agents}"
        click.echo(visible(line))
    for approval in approved:
        click.echo(visible(f"approved  {approval.package}  {_day(approval.at)}"))
    if waiting:
        hint("let one in with: mcpcp packages approve NAME")
    elif not approved:
        click.echo("nothing waits, and nothing is approved")


@packages.command()
@_packages_argument
@config_option
def approve(names: tuple[str, ...], config: str | None) -> None:
    """Let agents install a package, any version of it or only one.

    \b
    mcpcp packages approve markdown2
    mcpcp packages approve markdown2==2.5.0

    It counts from the next call on; nothing has to be restarted.
    """
    _approvals(config).approve(names)
    for name in names:
        click.echo(f"approved {name}")


@packages.command()
@_packages_argument
@config_option
def revoke(names: tuple[str, ...], config: str | None) -> None:
    """Take an approval back: calls that need the package are refused from then on.

    \b
    mcpcp packages revoke markdown2
    """
    _approvals(config).revoke(names)
    for name in names:
        click.echo(f"revoked {name}")


def _approvals(config: str | None) -> Approvals:
    return Approvals(load_config(config).packages_path)


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
