"""`mcpcp install`: the entry in an MCP client's own config."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from mcpcp.cli.jsontext import with_members
from mcpcp.cli.options import config_option, hint, load_config
from mcpcp.config import PROJECT, Config, claude_desktop_config, process_environment
from mcpcp.config.findings import suggest
from mcpcp.config.reading import parse_json, read_text
from mcpcp.errors import ConfigError
from mcpcp.files import back_up, write_atomically

USUAL_AGENT = "claude"


@click.group()
def install() -> None:
    """Put one entry for all servers into an MCP client's config.

    \b
    mcpcp install claude-desktop
    """


@install.command("claude-desktop")
@click.option("--agent", metavar="NAME", help="Who Claude is (default: claude, or the only agent).")
@click.option("--name", default="mcpcp", show_default=True, help="What the entry is called.")
@click.option("--file", type=click.Path(dir_okay=False, path_type=Path), help="Another file.")
@click.option("--print", "only_print", is_flag=True, help="Show the entry, change nothing.")
@config_option
def claude_desktop(
    agent: str | None, name: str, file: Path | None, only_print: bool, config: str | None
) -> None:
    """Write the entry into Claude Desktop's config, keeping what is there and a backup.

    \b
    mcpcp install claude-desktop --agent claude
    mcpcp install claude-desktop --print

    The PATH of this shell goes along, for servers that need npx, uvx or docker.
    """
    loaded = load_config(config)
    entry = entry_for(loaded, agent or _usual_agent(loaded))
    _check_agent(agent, loaded)
    if only_print:
        click.echo(json.dumps({"mcpServers": {name: entry}}, indent=2, ensure_ascii=False))
        return
    path = file or claude_desktop_config()
    click.echo(_write(path, name, entry))
    hint("restart Claude Desktop: it reads its config when it starts")


def entry_for(config: Config, agent: str) -> dict[str, Any]:
    """What Claude Desktop runs: absolute paths, since it starts servers anywhere."""
    env = {"PATH": process_environment().get("PATH", "")}
    if not _is_installed():
        env["PYTHONPATH"] = str(PROJECT)
    args = ["-m", "mcpcp", "stdio", "--agent", agent, "--config", str(config.path)]
    return {"command": sys.executable, "args": args, "env": env}


def _is_installed() -> bool:
    try:
        importlib.metadata.distribution("mcpcp")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _usual_agent(config: Config) -> str:
    if USUAL_AGENT in config.agents:
        return USUAL_AGENT
    if len(config.agents) == 1:
        return next(iter(config.agents))
    known = ", ".join(config.agents) or "none"
    raise ConfigError(f"which agent is Claude? say it with --agent; {config.path} has: {known}")


def _check_agent(agent: str | None, config: Config) -> None:
    if agent is not None and agent not in config.agents:
        hint_ = suggest(agent, config.agents)
        raise ConfigError(f"{config.path}: agents: no agent {json.dumps(agent)}; {hint_}")


def _write(path: Path, name: str, entry: Mapping[str, Any]) -> str:
    """Set the entry in the file at `path`; says what was done."""
    text = read_text(path) if path.exists() else ""
    servers = _servers_of(text, path)
    if servers.get(name) == entry:
        return f"{path} has this entry already"
    changed = with_members(text, "mcpServers", {name: dict(entry)})
    if not path.exists():
        write_atomically(path, changed.encode())
        return f"wrote {path}"
    backup = back_up(path)
    write_atomically(path, changed.encode(), path.stat().st_mode & 0o777)
    done = "replaced" if name in servers else "added"
    return f"{done} {name} in {path} (before: {backup.name})"


def _servers_of(text: str, path: Path) -> Mapping[str, Any]:
    value = parse_json(text, path) if text.strip() else {}
    servers = value.get("mcpServers", {}) if isinstance(value, dict) else None
    if not isinstance(servers, dict):
        raise ConfigError(f"{path}: is not as Claude Desktop writes it, so it was left untouched")
    return servers
