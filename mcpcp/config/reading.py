"""From the file's bytes to plain JSON values: syntax, repeated keys, and `${VAR}`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mcpcp.config.findings import Expanded, Findings, below, suggest
from mcpcp.errors import ConfigError

_VARIABLE = re.compile(r"\$\$\{|\$\{([^{}]*)\}|\$\{")
_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)


class _Object(dict[str, Any]):
    """A JSON object that remembers which of its keys were written twice."""

    repeated: tuple[str, ...] = ()


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark; raises ConfigError."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as e:
        raise ConfigError(f"{path}: can't be read: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {e.start})") from e


def parse_json(text: str, path: Path) -> Any:
    """The JSON value that `path` holds; raises ConfigError naming line and column of a mistake."""
    if not text.strip():
        raise ConfigError(f'{path}: is empty; the least is {{"mcpServers": {{}}}}')
    try:
        return json.loads(text, object_pairs_hook=_pairs, parse_constant=_no_constant)
    except json.JSONDecodeError as e:
        raise ConfigError(_syntax(path, text, _trailing_comma(text, e.pos) or e)) from e
    except (ValueError, RecursionError) as e:
        raise ConfigError(f"{path}: is not JSON: {e}") from e


def _trailing_comma(text: str, pos: int) -> json.JSONDecodeError | None:
    """The mistake at `pos` if it is that; from Python 3.13 on it is found at the comma itself."""
    at = pos if text[pos : pos + 1] == "," else len(text[:pos].rstrip()) - 1
    if text[at : at + 1] != "," or not text[at + 1 :].lstrip().startswith(("]", "}")):
        return None
    return json.JSONDecodeError("a comma before a closing bracket: take it out", text, at)


def _syntax(path: Path, text: str, error: json.JSONDecodeError) -> str:
    line = text.splitlines()[error.lineno - 1] if text.splitlines()[error.lineno - 1 :] else ""
    start = max(0, error.colno - 60)
    shown = line[start : start + 100]
    hint = ""
    if line.lstrip().startswith(("//", "/*", "#")):
        hint = ' (JSON has no comments; a key "//" can hold one)'
    caret = " " * (error.colno - 1 - start) + "^"
    where = f"line {error.lineno}, column {error.colno}"
    return f"{path}: {where}: {error.msg}{hint}\n    {shown}\n    {caret}"


def _pairs(pairs: list[tuple[str, Any]]) -> _Object:
    values = _Object(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        values.repeated = tuple(n for n in values if names.count(n) > 1)
    return values


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number there")


def report_repeated(value: Any, at: str, found: Findings) -> None:
    """A problem for every key that an object has twice: readers disagree which one counts."""
    if isinstance(value, _Object):
        for name in value.repeated:
            found.problem(below(at, name), "is there twice: only one can be meant")
    if isinstance(value, dict):
        for name, entry in value.items():
            report_repeated(entry, below(at, name), found)
    elif isinstance(value, list):
        for i, entry in enumerate(value):
            report_repeated(entry, f"{at}[{i}]", found)


def read_dotenv(folder: Path) -> dict[str, str]:
    """The variables that the `.env` beside the config sets."""
    return read_env_file(folder / ".env") if (folder / ".env").is_file() else {}


def read_env_file(path: Path) -> dict[str, str]:
    """NAME=value lines; raises ConfigError where the file can't be read."""
    from dotenv import dotenv_values  # most configs have no such file

    try:
        values = dotenv_values(path, interpolate=False, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: can't be read: {e}") from e
    return {name: value for name, value in values.items() if value is not None}


def expand(value: Any, at: str, env: Mapping[str, str], found: Findings) -> Any:
    """`value` with `${VAR}` and `${VAR:-default}` replaced in all its texts.

    What stands in a disabled server is not looked up: an entry may wait there for its variables.
    """
    if isinstance(value, str):
        return _expand_text(value, at, env, found)
    if isinstance(value, list):
        return [expand(v, f"{at}[{i}]", env, found) for i, v in enumerate(value)]
    if isinstance(value, dict):
        if at.startswith("mcpServers.") and value.get("disabled") is True:
            return value
        return {name: expand(v, below(at, name), env, found) for name, v in value.items()}
    return value


def _expand_text(text: str, at: str, env: Mapping[str, str], found: Findings) -> str:
    if "${" not in text:
        return text
    result = Expanded(_VARIABLE.sub(lambda match: _lookup(match, at, env, found), text))
    result.source = text
    return result


def _lookup(match: re.Match[str], at: str, env: Mapping[str, str], found: Findings) -> str:
    if match[0] == "$${":
        return "${"
    inside = match[1]
    parts = None if inside is None else _NAME.fullmatch(inside)
    if parts is None:
        found.problem(at, _bad_variable(match[0], inside))
        return ""
    name, default = parts.groups()
    # As in a shell, an empty variable takes the default too.
    if default is not None:
        return env.get(name) or default
    if name not in env:
        close = suggest(name, env) if len(env) else ""
        hint = f" ({close})" if close.startswith("did") else ""
        found.problem(
            at,
            f"the variable {name} is not set{hint}: set it, put it into .env beside the config,"
            f" or write ${{{name}:-default}}",
        )
    return env.get(name, "")


def _bad_variable(text: str, inside: str | None) -> str:
    scheme, colon, name = (inside or "").partition(":")
    if scheme == "env" and colon:
        return f"{text} is another client's spelling: write ${{{name}}}"
    if colon and scheme.isalnum():
        return f"{text}: ${{scheme:name}} is reserved for secrets and means nothing yet"
    return (
        f"{text} is not a variable: write ${{NAME}} or ${{NAME:-default}}, and $${{ for a plain ${{"
    )
