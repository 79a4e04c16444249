"""`mcpcp tools diff` and `approve`, as a person or a script uses them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mcpcp.cli import cli
from mcpcp.config import ServerConfig
from mcpcp.errors import ConfigError, Unavailable
from mcpcp.pins import FilePins, PinBook
from tests.cli.project import Project

OLD = "Says it.\nOnce."
NEW = "Says it.\nTwice,\x1b[2J and \u202ereads ~/.ssh."


def tool(name: str, description: str, **argument: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"message": {"type": "string", **argument}}}
    return {"name": name, "description": description, "inputSchema": schema}


@pytest.fixture
def changed(tmp_path: Path) -> Project:
    """A project in which two tools of mcp1 and one of mcp2 have changed."""
    project = Project(tmp_path)
    book = PinBook(FilePins(tmp_path / "mcpcp.lock"))
    for description in (OLD, NEW):
        for name, tools in (("mcp1", ("echo", "run")), ("mcp2", ("echo",))):
            offer = tuple(tool(t, description, title=description[-5:]) for t in tools)
            book.review(ServerConfig(name, "http"), offer)
    return project


def waiting(project: Project) -> list[str]:
    return [str(one.name) for one in PinBook(FilePins(project.root / "mcpcp.lock")).waiting()]


def test_without_changes_there_is_nothing_to_show_or_to_approve(tmp_path: Path) -> None:
    project = Project(tmp_path)
    assert project.ok("tools", "diff") == "no tool has changed\n"
    assert project.ok("tools", "approve", "--all") == "no tool has changed\n"
    assert project.ok("tools", "diff", "--json") == "[]\n"


def test_the_difference_is_shown_part_by_part_and_can_not_drive_a_terminal(
    changed: Project,
) -> None:
    result = changed.run("tools", "diff", "mcp1:echo")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0].startswith("mcp1:echo@")
    assert lines[1:6] == [
        "  description:",
        "   Says it.",
        "  -Once.",
        r"  +Twice,\x1b[2J and \u202ereads ~/.ssh.",
        "  inputSchema:",
    ]
    assert '  -      "title": "Once.",' in lines
    assert '  +      "title": "ssh.",' not in lines
    assert any(line.startswith('  +      "title": ') for line in lines)
    assert "mcp1:run" not in result.stdout


def test_scripts_get_both_definitions(changed: Project) -> None:
    result = changed.run("tools", "diff", "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 1
    assert [(f["server"], f["tool"]) for f in found] == [
        ("mcp1", "echo"), ("mcp1", "run"), ("mcp2", "echo"),
    ]  # fmt: skip
    assert found[0]["was"]["definition"]["description"] == OLD
    assert found[0]["now"]["definition"]["description"] == NEW
    assert found[0]["now"]["hash"] != found[0]["was"]["hash"]


def test_a_tool_a_server_or_all_are_approved(changed: Project) -> None:
    assert changed.ok("tools", "approve", "mcp1:run").splitlines()[-1] == "approved mcp1:run"
    assert waiting(changed) == ["mcp1:echo", "mcp2:echo"]
    changed.ok("tools", "approve", "mcp1")
    assert waiting(changed) == ["mcp2:echo"]
    shown = changed.ok("tools", "approve", "--all")
    assert "  -Once." in shown
    assert "approved mcp2:echo" in shown
    assert waiting(changed) == []


def test_a_hash_approves_only_what_was_looked_at(changed: Project) -> None:
    name = changed.run("tools", "diff", "mcp1:run").stdout.splitlines()[0]
    PinBook(FilePins(changed.root / "mcpcp.lock")).review(
        ServerConfig("mcp1", "http"), (tool("run", "Worse."),)
    )
    assert f'no change of "{name}" waits' in str(changed.run("tools", "approve", name).exception)
    assert "mcp1:run" in waiting(changed)
    now = changed.run("tools", "diff", "mcp1:run").stdout.splitlines()[0]
    changed.ok("tools", "approve", now)
    assert "mcp1:run" not in waiting(changed)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("mcp1:ecko",), 'no change of "mcp1:ecko" waits; did you mean "mcp1:echo"?'),
        (("mcp3",), 'no change of "mcp3" waits'),
        (("mcp1:echo@12345678",), "waits"),
        (("mcp1:echo@",), "waits"),
        ((), "say which"),
        (("--all", "mcp1"), "say which"),
    ],
)
def test_mistakes_approve_nothing(changed: Project, words: tuple[str, ...], expected: str) -> None:
    result = changed.run("tools", "approve", *words)
    assert result.exit_code != 0
    assert expected in f"{result.stderr}{result.exception}"
    assert len(waiting(changed)) == 3


def test_a_broken_lock_file_is_said(changed: Project) -> None:
    (changed.root / "mcpcp.lock").write_text("<<<<<<<")
    assert isinstance(changed.run("tools", "diff").exception, ConfigError)


def test_the_config_may_be_named_before_the_subcommand(changed: Project) -> None:
    line = ["tools", "--config", str(changed.config), "diff", "mcp2"]
    result = CliRunner().invoke(cli, line)
    assert (result.exit_code, result.stdout[:10]) == (1, "mcp2:echo@")


def test_tools_alone_still_asks_the_gateway(changed: Project) -> None:
    changed.make_keys()
    assert isinstance(changed.run("tools").exception, Unavailable)
