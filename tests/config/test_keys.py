"""JSON Schema and documentation follow the same table as the parser."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mcpcp.config import loads
from mcpcp.config.keys import FILE, json_schema
from mcpcp.config.kinds import Kind, ListOf, MapOf, Nullable, Section, Shorthand
from mcpcp.errors import ConfigError

VALIDATOR = jsonschema.Draft202012Validator(json_schema())


def keys_below(kind: Kind) -> list[str]:
    match kind:
        case Section():
            own = [name for k in kind.keys for name in (k.name, *k.aliases)]
            return own + [name for k in kind.keys for name in keys_below(k.kind)]
        case MapOf() | ListOf():
            return keys_below(kind.item)
        case Shorthand():
            return keys_below(kind.section)
        case Nullable():
            return keys_below(kind.kind)
    return []


def test_the_schema_in_docs_is_current(project: Path) -> None:
    stored = json.loads((project / "docs" / "mcpcp.schema.json").read_text())
    assert stored == json.loads(json.dumps(json_schema())), "run scripts/generate-schema"


def test_every_key_is_documented(project: Path) -> None:
    page = (project / "docs" / "config.md").read_text()
    named = set(re.findall(r"`([$\w]+)`", page))
    assert set(keys_below(FILE)) <= named


def test_the_projects_config_and_the_documented_one_fit_the_schema(project: Path) -> None:
    VALIDATOR.validate(json.loads((project / "mcpcp.json").read_text()))
    page = (project / "docs" / "config.md").read_text()
    examples = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    assert examples
    for example in examples:
        VALIDATOR.validate(json.loads(example))
        loads(example, project / "mcpcp.json", {})


@pytest.mark.parametrize(
    ("entry", "good"),
    [
        ({"command": "x", "port": 5001}, True),
        ({"command": "x", "port": "${PORT}"}, True),
        ({"command": "x", "port": "5001"}, False),
        ({"command": "x", "port": 70000}, False),
        ({"command": "x", "prot": 5001}, False),
        ({"command": "x", "//": "why"}, True),
        ({"command": "x", "type": "streamable-http", "port": 5001}, True),
        ({"command": "x", "type": "websocket"}, False),
        ({"command": "x", "timeout": "5m"}, True),
        ({"command": "x", "timeout": "5 parsecs"}, False),
        ({"command": "x", "limits": {"memory": "512MiB"}}, True),
        ({"command": "x", "limits": {"memory": "512 apples"}}, False),
        ({"command": "x", "restart": "never"}, True),
        ({"command": "x", "restart": {"burst": 0}}, False),
        ({"command": "x", "autoApprove": []}, True),
        ({"command": "x", "env": {"A": 1}}, False),
        ({"command": "x", "tools": ["a"]}, True),
        ({"command": "x", "tools": {"alow": ["a"]}}, False),
    ],
)
def test_parser_and_schema_agree(entry: dict[str, Any], good: bool, tmp_path: Path) -> None:
    content = {"mcpServers": {"a": entry}}
    try:
        loads(json.dumps(content), tmp_path / "mcpcp.json", {"PORT": "5001"})
        parsed = True
    except ConfigError:
        parsed = False
    assert (VALIDATOR.is_valid(content), parsed) == (good, good)
