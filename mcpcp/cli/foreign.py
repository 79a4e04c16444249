"""Other clients' config files: where their servers are, and how an entry reads here. (pure)"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcpcp.errors import ConfigError

_VARIABLE = re.compile(r"\$\{([^{}]*)\}")
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(:-.*)?", re.DOTALL)
_NAME = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass
class Imported:
    """Servers as our config writes them, and what a person should know about each."""

    servers: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_foreign(value: Any, path: Path, project: str | None = None) -> Imported:
    """The servers of a parsed file of Claude Desktop, Claude Code, Cursor or VS Code."""
    found = Imported()
    for name, entry in _find_servers(value, path, project).items():
        if not isinstance(entry, dict):
            found.notes.append(f"{name}: is no server, left out")
        elif _is_ourselves(entry):
            found.notes.append(f"{name}: is this gateway itself, left out")
        else:
            ours = _free(_our_name(name), found.servers)
            if ours != name:
                found.notes.append(f"{name}: is called {ours} here")
            found.servers[ours] = _translate(entry, ours, path, found.notes)
    return found


def _find_servers(value: Any, path: Path, project: str | None) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: holds no object, so no servers")
    if project is not None:
        entry = _object(_object(value, "projects"), project)
        return _object(entry, "mcpServers")
    candidates = (
        _object(value, "mcpServers"),
        _object(value, "servers"),
        _object(_object(value, "mcp"), "servers"),
    )
    servers = next((c for c in candidates if c), None)
    if servers is None:
        raise ConfigError(_nothing_found(value, path))
    return servers


def _nothing_found(value: Mapping[str, Any], path: Path) -> str:
    having = [
        name
        for name, entry in _object(value, "projects").items()
        if isinstance(entry, dict) and entry.get("mcpServers")
    ]
    if having:
        return f"{path}: has servers in its projects only; name one: --project {having[0]}" + (
            f" (or {', '.join(having[1:])})" if having[1:] else ""
        )
    return f'{path}: has neither "mcpServers" nor "servers", or no entry in them'


def _object(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def _is_ourselves(entry: Mapping[str, Any]) -> bool:
    """A gateway that has itself as a server would start itself without end."""
    args = entry.get("args")
    words = [entry.get("command"), *(args if isinstance(args, list) else ())]
    names = [re.split(r"[\\/]", w)[-1] for w in words if isinstance(w, str)]
    return "stdio" in names and any(n in ("mcpcp", "mcpcp.exe") for n in names)


def _our_name(name: str) -> str:
    return _NAME.sub("-", name).strip("-")[:32] or "server"


def _free(name: str, taken: Mapping[str, Any]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name[:28]}-{number}"
    return free


def free_name(name: str, taken: Mapping[str, Any]) -> str:
    """`name`, or with a number behind it the first that is not taken."""
    return _free(name, taken)


def _translate(entry: Mapping[str, Any], name: str, path: Path, notes: list[str]) -> dict[str, Any]:
    def text(value: str) -> str:
        return _VARIABLE.sub(lambda match: _variable(match[1], name, path, notes), value)

    def walk(value: Any) -> Any:
        if isinstance(value, str):
            return text(value)
        if isinstance(value, list):
            return [walk(v) for v in value]
        if isinstance(value, dict):
            return {key: walk(v) for key, v in value.items()}
        return value

    translated: dict[str, Any] = walk(entry)
    if translated.get("env"):
        notes.append(f"{name}: its env was copied as it is; secrets are better kept in .env")
    return translated


def _variable(inside: str, name: str, path: Path, notes: list[str]) -> str:
    """Another client's `${...}` as ours."""
    scheme, _, rest = inside.partition(":")
    if scheme == "env" and rest:
        return f"${{{rest}}}"
    if scheme == "input" and rest:
        variable = re.sub(r"\W", "_", rest, flags=re.ASCII).upper()
        notes.append(f"{name}: asks for {rest}; set {variable}, or put it into .env")
        return f"${{{variable}}}"
    places = {
        "workspaceFolder": str(_workspace(path)),
        "workspaceFolderBasename": _workspace(path).name,
        "userHome": str(Path.home()),
        "pathSeparator": "/",
        "/": "/",
    }
    if inside in places:
        return places[inside]
    # Anything else is not a variable to us, and must reach the server as it was written.
    return f"${{{inside}}}" if _PLAIN.fullmatch(inside) else f"$${{{inside}}}"


def _workspace(path: Path) -> Path:
    folder = path.resolve().parent
    return folder.parent if folder.name in (".vscode", ".cursor", ".claude") else folder
