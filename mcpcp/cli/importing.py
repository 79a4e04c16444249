"""`mcpcp import`: another client's servers into this config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from mcpcp.cli.foreign import Imported, free_name, read_foreign
from mcpcp.cli.jsontext import with_members, without_comments
from mcpcp.cli.options import config_option, hint
from mcpcp.config import find_config, loads
from mcpcp.config.reading import parse_json, read_text
from mcpcp.errors import ConfigError
from mcpcp.files import back_up, write_atomically


@click.command("import")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--project", metavar="FOLDER", help="The servers of one project in Claude Code's file."
)
@click.option(
    "--clash",
    type=click.Choice(["error", "skip", "rename"]),
    default="error",
    show_default=True,
    help="What to do with a name that the config has already.",
)
@click.option("--print", "--dry-run", "only_print", is_flag=True, help="Show it, change nothing.")
@config_option
def import_(
    file: Path, project: str | None, clash: str, only_print: bool, config: str | None
) -> None:
    """Take over the servers in another client's FILE.

    \b
    mcpcp import ~/.config/Claude/claude_desktop_config.json
    mcpcp import ~/.cursor/mcp.json --clash rename
    mcpcp import .vscode/mcp.json --print

    FILE is one of Claude Desktop, Claude Code, Cursor (mcpServers) or VS Code (servers). What the
    config holds stays as it is, and a backup is kept beside it.
    """
    path = find_config(config)
    text = read_text(path)
    imported = read_foreign(_read(file), file, project)
    present = _servers_of(parse_json(text, path), path)
    new = _resolve_clashes(imported, present, clash, path)
    new, merged = _merge(new, text, path, imported.notes)
    for note in imported.notes:
        hint(note)
    if only_print or not new:
        click.echo(json.dumps({"mcpServers": new}, indent=2, ensure_ascii=False))
        return
    backup = back_up(path)
    write_atomically(path, merged.encode(), path.stat().st_mode & 0o777)
    click.echo(f"added {', '.join(new)} to {path} (before: {backup.name})")
    hint('which agents may use them is said by "agents"')


def _read(file: Path) -> Any:
    return parse_json(without_comments(read_text(file)), file)


def _servers_of(value: Any, path: Path) -> Mapping[str, Any]:
    servers = value.get("mcpServers", {}) if isinstance(value, dict) else None
    if not isinstance(servers, dict):
        raise ConfigError(f'{path}: "mcpServers" is no object')
    return servers


def _resolve_clashes(
    imported: Imported, present: Mapping[str, Any], clash: str, path: Path
) -> dict[str, Any]:
    new: dict[str, Any] = {}
    clashing = []
    for name, entry in imported.servers.items():
        if present.get(name) in (entry, {**entry, "disabled": True}):
            imported.notes.append(f"{name}: is there already")
        elif name not in present:
            new[name] = entry
        elif clash == "skip":
            imported.notes.append(f"{name}: left out, the config has another one")
        elif clash == "rename":
            new[free_name(name, {**present, **imported.servers, **new})] = entry
        else:
            clashing.append(name)
    if clashing:
        raise ConfigError(
            f"{path} has other servers called {', '.join(clashing)}: use --clash rename or skip"
        )
    return new


def _merge(
    new: dict[str, Any], text: str, path: Path, notes: list[str]
) -> tuple[dict[str, Any], str]:
    """The entries, those that can't be used yet disabled, and the file that they make."""
    usable = {
        name: _disabled_unless_usable(name, entry, text, path, notes) for name, entry in new.items()
    }
    merged = with_members(text, "mcpServers", usable)
    loads(merged, path)
    return usable, merged


def _disabled_unless_usable(
    name: str, entry: dict[str, Any], text: str, path: Path, notes: list[str]
) -> dict[str, Any]:
    try:
        loads(with_members(text, "mcpServers", {name: entry}), path)
    except ConfigError as e:
        disabled = {**entry, "disabled": True}
        try:
            loads(with_members(text, "mcpServers", {name: disabled}), path)
        except ConfigError:
            raise e from None  # it is wrong, not only unfinished
        notes.append(f"{name}: is disabled until this is mended: {e}")
        return disabled
    return entry
