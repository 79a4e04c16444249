"""`mcpcp tools approve` and `diff`: changed tool definitions, shown and let in."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import click

from mcpcp.cli.options import config_option, hint, json_option, load_config, visible
from mcpcp.config import Config
from mcpcp.config.findings import suggest
from mcpcp.errors import ConfigError
from mcpcp.lockfile import PINNED, Version
from mcpcp.pins import FilePins, PinBook, Waiting
from mcpcp.state import open_pins

_SHORT = 12


@click.command()
@click.argument("names", nargs=-1, metavar="[SERVER[:TOOL[@HASH]]]...")
@json_option
@config_option
@click.pass_context
def diff(ctx: click.Context, names: tuple[str, ...], as_json: bool, config: str | None) -> None:
    """Show the tools whose definition changed (exit code 1: there are some).

    \b
    mcpcp tools diff
    mcpcp tools diff mcp1:echo
    mcpcp tools diff --json | jq -r '.[].tool'
    """
    waiting = _chosen(_book(ctx, config).waiting(), names)
    if as_json:
        click.echo(json.dumps([_as_data(w) for w in waiting], indent=2))
    else:
        for one in waiting:
            _show(one)
        if waiting:
            hint("let them in with: mcpcp tools approve SERVER:TOOL, or --all")
        else:
            click.echo("no tool has changed")
    sys.exit(1 if waiting else 0)


@click.command()
@click.argument("names", nargs=-1, metavar="[SERVER[:TOOL[@HASH]]]...")
@click.option("--all", "everything", is_flag=True, help="Every change that waits.")
@config_option
@click.pass_context
def approve(
    ctx: click.Context, names: tuple[str, ...], everything: bool, config: str | None
) -> None:
    """Let tools in as they are now, after showing what changed.

    \b
    mcpcp tools approve mcp1:echo               one tool
    mcpcp tools approve mcp1:echo@5b2c08f1e9d4  only if it is still as `diff` showed it
    mcpcp tools approve mcp1                    every tool of one server
    mcpcp tools approve --all

    A running gateway offers them within a second.
    """
    if bool(names) == everything:
        raise click.UsageError("say which: SERVER, SERVER:TOOL, or --all")
    book = _book(ctx, config)
    chosen = _chosen(book.waiting(), names)
    for one in chosen:
        _show(one)
    approved = book.approve(chosen)
    for name in approved:
        click.echo(f"approved {visible(str(name))}")
    if len(approved) < len(chosen):
        raise ConfigError("some tools changed again meanwhile: see mcpcp tools diff")
    if not approved:
        click.echo("no tool has changed")


def _book(ctx: click.Context, config: str | None) -> PinBook:
    return open_book(load_config(config or ctx.obj))


def open_book(config: Config) -> PinBook:
    """What this config's gateways have pinned; raises Unavailable where that is kept elsewhere."""
    return PinBook(open_pins(config) or FilePins(config.pins_path))


def _chosen(waiting: Sequence[Waiting], names: Iterable[str]) -> list[Waiting]:
    """Those that `names` name, all of them without names; raises ConfigError for one too many."""
    if not names:
        return list(waiting)
    found: dict[Any, Waiting] = {}
    for name in names:
        meant = [one for one in waiting if _is_meant(one, name)]
        if not meant:
            tools = {str(one.name) for one in waiting}
            raise ConfigError(f"no change of {json.dumps(name)} waits; {suggest(name, tools)}")
        found.update((one.name, one) for one in meant)
    return list(found.values())


def _is_meant(one: Waiting, name: str) -> bool:
    """Whether `name` is its server, its tool, or its tool and the beginning of its hash."""
    if name in (one.name.server, str(one.name)):
        return True
    tool, at, digest = name.rpartition("@")
    return bool(at) and tool == str(one.name) and len(digest) >= 8 and one.digest.startswith(digest)


def _as_data(one: Waiting) -> dict[str, Any]:
    pin = one.pin
    return {
        "server": one.name.server,
        "tool": one.name.tool,
        "was": {"hash": pin.approved.digest, "definition": pin.approved.definition},
        "now": {"hash": one.digest, "definition": pin.pending.definition if pin.pending else None},
    }


def _show(one: Waiting) -> None:
    click.secho(f"{visible(str(one.name))}@{one.digest[:_SHORT]}", bold=True)
    for line in _changes(one.pin.approved, one.pin.pending):
        colour = {"-": "red", "+": "green"}.get(line[:1])
        click.secho(f"  {visible(line)}", fg=colour)


def _changes(was: Version, now: Version | None) -> Iterator[str]:
    """Each part that differs, as lines; a definition that was too long to keep says so."""
    if now is None or now.definition is None or was.definition is None:
        yield "the definition is too long to be shown: look at the server itself"
        return
    for part in PINNED:
        old, new = (_lines(version.definition, part) for version in (was, now))
        if old != new:
            yield f"{part}:"
            changes = difflib.unified_diff(old, new, n=2, lineterm="")
            yield from (line for line in changes if not line.startswith(("---", "+++", "@@")))


def _lines(definition: dict[str, Any] | None, part: str) -> list[str]:
    value = (definition or {}).get(part)
    if value is None:
        return []
    if isinstance(value, str):
        return value.splitlines()
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False).splitlines()
