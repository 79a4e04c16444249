"""`mcpcp install claude-desktop`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from mcpcp.config import claude_desktop_config
from tests.cli.project import CONFIG, Project


@pytest.fixture
def mine(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "claude" / "claude_desktop_config.json"


def install(mine: Project, target: Path, *words: str) -> str:
    return mine.ok("install", "claude-desktop", "--file", str(target), *words)


def test_the_entry_has_absolute_paths_and_this_shells_path(mine: Project, target: Path) -> None:
    install(mine, target, "--agent", "me")
    entry = json.loads(target.read_text())["mcpServers"]["mcpcp"]
    assert entry == {
        "command": sys.executable,
        "args": ["-m", "mcpcp", "stdio", "--agent", "me", "--config", str(mine.config.resolve())],
        "env": {"PATH": os.environ["PATH"]},
    }


def test_what_is_there_stays_and_is_backed_up(mine: Project, target: Path) -> None:
    target.parent.mkdir()
    before = '{\n    "theme": "dark",\n    "mcpServers": {\n        "x": {"command": "y"}\n    }\n}'
    target.write_text(before)
    target.chmod(0o644)
    install(mine, target)
    after = json.loads(target.read_text())
    assert (after["theme"], after["mcpServers"]["x"]) == ("dark", {"command": "y"})
    assert after["mcpServers"]["mcpcp"]["args"][4] == "claude"
    assert target.read_text().startswith(before[: before.index("\n    }\n}")])
    assert target.stat().st_mode & 0o777 == 0o644
    (backup,) = target.parent.glob("*.backup-*")
    assert backup.read_text() == before


def test_installing_twice_changes_nothing(mine: Project, target: Path) -> None:
    install(mine, target)
    before = target.read_text()
    assert "has this entry already" in install(mine, target)
    assert target.read_text() == before
    assert list(target.parent.glob("*.backup-*")) == []


def test_an_entry_is_replaced(mine: Project, target: Path) -> None:
    install(mine, target)
    assert "replaced mcpcp" in install(mine, target, "--agent", "me")
    assert json.loads(target.read_text())["mcpServers"]["mcpcp"]["args"][4] == "me"


@pytest.mark.parametrize("text", ["{", "[]", '{"mcpServers": []}', '{"a": 1,}', "// x\n{}"])
def test_a_malformed_file_is_left_untouched(mine: Project, target: Path, text: str) -> None:
    target.parent.mkdir()
    target.write_text(text)
    assert str(target) in mine.error("install", "claude-desktop", "--file", str(target))
    assert target.read_text() == text
    assert len(list(target.parent.iterdir())) == 1


def test_an_empty_file_is_filled(mine: Project, target: Path) -> None:
    target.parent.mkdir()
    target.touch()
    install(mine, target)
    assert "mcpcp" in json.loads(target.read_text())["mcpServers"]


def test_printing_writes_nothing(mine: Project, target: Path) -> None:
    entry = json.loads(install(mine, target, "--print"))["mcpServers"]["mcpcp"]
    assert entry["command"] == sys.executable
    assert not target.parent.exists()


def test_the_agent_has_to_be_clear(mine: Project, target: Path) -> None:
    words = ("install", "claude-desktop", "--file", str(target))
    assert 'no agent "mee"; did you mean "me"?' in mine.error(*words, "--agent", "mee")
    agents: dict[str, Any] = {"a": {"allow": {}}, "b": {"allow": {}}}
    mine.write({**CONFIG, "agents": agents})
    assert "say it with --agent" in mine.error(*words)
    mine.write({**CONFIG, "agents": {"a": {"allow": {}}}})
    install(mine, target)
    assert json.loads(target.read_text())["mcpServers"]["mcpcp"]["args"][4] == "a"


def test_the_example_at_the_top_level_is_what_install_writes(mine: Project, project: Path) -> None:
    example = json.loads((project / "claude_desktop_config.json").read_text())["mcpServers"]
    entry = json.loads(mine.ok("install", "claude-desktop", "--print"))["mcpServers"]
    assert example.keys() == entry.keys()
    example, entry = example["mcpcp"], entry["mcpcp"]
    assert example.keys() == entry.keys()
    assert example["args"][:-1] == entry["args"][:-1]
    assert Path(example["args"][-1]).is_absolute()
    assert example["env"].keys() == entry["env"].keys()


@pytest.mark.skipif(sys.platform != "linux", reason="each system has its own place")
def test_claudes_own_place_is_known() -> None:
    tail = "Claude/claude_desktop_config.json"
    assert claude_desktop_config({}) == Path.home() / ".config" / tail
    assert claude_desktop_config({"XDG_CONFIG_HOME": "/c"}) == Path("/c") / tail
