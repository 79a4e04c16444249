"""Whatever the file holds, it is a Config or a ConfigError that can be printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
from hypothesis import given, settings
from hypothesis import strategies as st

from mcpcp.config import Config, loads
from mcpcp.config.keys import FILE, json_schema
from mcpcp.config.kinds import Kind, ListOf, MapOf, Nullable, Section, Shorthand
from mcpcp.errors import ConfigError

PATH = Path("/nowhere/mcpcp.json")
VALIDATOR = jsonschema.Draft202012Validator(json_schema())

ODD: st.SearchStrategy[Any] = st.sampled_from(
    [
        None, True, False, 0, 1, -1, 5001, 65536, 1.5, 10**400, 1e308, float("inf"),
        "", "x", "~nobody-here/x", "\ud800", "\0", "a\nb", "${", "${A}", "${B:-7}", "5s", "1MiB",
        "http://[::1", "http://x/sse", "*", "sse", "a", [], {}, ["*"], ["a"], [[]], {"a": []},
        {"a": ["*"]}, {"\ud800": "x"}, {"": ""},
    ]
)  # fmt: skip
NAMES = st.sampled_from(["a", "b", "a b", "\ud800", "", "x.y"])


def values_of(kind: Kind) -> st.SearchStrategy[Any]:
    """Values that a key of this kind may have, odd ones among them."""
    match kind:
        case Section():
            return ODD | section(kind)
        case Shorthand():
            return ODD | section(kind.section)
        case MapOf():
            return ODD | st.dictionaries(NAMES, values_of(kind.item), max_size=2)
        case ListOf():
            return ODD | st.lists(values_of(kind.item), max_size=2)
        case Nullable():
            return values_of(kind.kind)
    return ODD


def section(kind: Section) -> st.SearchStrategy[dict[str, Any]]:
    """Some of a section's keys."""
    known = {key.name: values_of(key.kind) for key in kind.keys}
    return st.fixed_dictionaries({}, optional={**known, "strange": ODD, "\ud800": ODD})


def parsed(content: object) -> Config | None:
    try:
        return loads(json.dumps(content), PATH, {"A": "1"})
    except ConfigError as e:
        str(e).encode()
        return None


@settings(max_examples=300, deadline=None)
@given(section(FILE))
def test_any_file_is_read_or_refused(content: dict[str, Any]) -> None:
    config = parsed(content)
    if config is not None:
        for server in config.servers.values():
            assert all(isinstance(word, str) for word in server.argv())
            assert (server.managed_by is None) == (server.url is not None)
        "\n".join(config.warnings).encode()


@settings(max_examples=300, deadline=None)
@given(section(next(key.kind.item for key in FILE.keys if key.name == "mcpServers")))  # type: ignore[attr-defined]
def test_what_the_parser_takes_the_schema_takes(entry: dict[str, Any]) -> None:
    content = {"mcpServers": {"a": {"command": "x", **entry}}}
    if parsed(content) is not None:
        assert VALIDATOR.is_valid(content), list(VALIDATOR.iter_errors(content))
