"""`mcpcp import`: other clients' files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mcpcp.config import load
from tests.cli.project import Project

CLAUDE = {
    "mcpServers": {
        "files": {"command": "npx", "args": ["-y", "server-files", "/tmp"]},
        "mcpcp": {"command": "/x/python", "args": ["-m", "mcpcp", "stdio", "--agent", "claude"]},
    },
    "theme": "dark",
}

VSCODE = """{
  // servers of this workspace
  "inputs": [{"type": "promptString", "id": "api-key", "password": true}],
  "servers": {
    "git hub": {"type": "http", "url": "https://x.example/mcp",
                "headers": {"Authorization": "Bearer ${input:api-key}"}},
    "local": {"command": "node", "args": ["${workspaceFolder}/s.js", "${userHome}", "${x:y}"],
              "env": {"A": "${env:PATH}"},},
  },
}
"""


@pytest.fixture
def mine(tmp_path: Path) -> Project:
    return Project(tmp_path)


def foreign(project: Project, content: Any, name: str = "other.json") -> str:
    path = project.root / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def servers(project: Project) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(project.config.read_text())["mcpServers"]
    return found


def test_servers_are_added_and_all_else_stays(mine: Project) -> None:
    before = mine.config.read_text()
    result = mine.run("import", foreign(mine, CLAUDE))
    assert result.exit_code == 0, result.output
    assert servers(mine)["files"] == CLAUDE["mcpServers"]["files"]  # type: ignore[index]
    assert "mcpcp: is this gateway itself, left out" in result.stderr
    after = mine.config.read_text()
    assert [line for line in before.splitlines() if line.rstrip(",") not in after] == []
    (backup,) = mine.root.glob("mcpcp.json.backup-*")
    assert backup.read_text() == before


def test_vs_codes_file_is_translated(mine: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("API_KEY", raising=False)
    result = mine.run("import", foreign(mine, VSCODE, ".vscode/mcp.json"))
    assert result.exit_code == 0, result.output
    hub, local = servers(mine)["git-hub"], servers(mine)["local"]
    assert hub["headers"] == {"Authorization": "Bearer ${API_KEY}"}
    assert hub["disabled"] is True  # until its variable is set
    assert "git hub: is called git-hub here" in result.stderr
    assert "asks for api-key; set API_KEY" in result.stderr
    assert local["args"] == [f"{mine.root}/s.js", str(Path.home()), "$${x:y}"]
    assert local["env"] == {"A": "${PATH}"}
    config = load(mine.config)
    assert config.servers["local"].args[2] == "${x:y}"


def test_a_servers_variables_that_are_set_are_used(
    mine: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY", "k")
    mine.ok("import", foreign(mine, VSCODE))
    assert load(mine.config).servers["git-hub"].headers == {"Authorization": "Bearer k"}


def test_settings_of_vs_code_and_projects_of_claude_code_are_found(mine: Project) -> None:
    entry = {"x": {"command": "tool"}}
    mine.ok("import", foreign(mine, {"mcp": {"servers": entry}}))
    assert "x" in servers(mine)
    file = foreign(mine, {"projects": {"/p": {"mcpServers": {"y": {"command": "tool"}}}}})
    assert "name one: --project /p" in mine.error("import", file)
    mine.ok("import", file, "--project", "/p")
    assert "y" in servers(mine)


@pytest.mark.parametrize(
    ("words", "name"),
    [(("--clash", "rename"), "mcp1-2"), (("--clash", "skip"), None), ((), None)],
)
def test_a_name_that_is_taken(mine: Project, words: tuple[str, ...], name: str | None) -> None:
    before = servers(mine)
    file = foreign(mine, {"mcpServers": {"mcp1": {"command": "other"}}})
    result = mine.run("import", file, *words)
    assert result.exit_code == (0 if words else 1)
    assert servers(mine)["mcp1"] == before["mcp1"]
    assert set(servers(mine)) - set(before) == ({name} if name else set())


def test_importing_twice_changes_nothing(mine: Project) -> None:
    mine.ok("import", foreign(mine, CLAUDE))
    after = mine.config.read_text()
    mine.ok("import", foreign(mine, CLAUDE))
    assert mine.config.read_text() == after


def test_printing_writes_nothing(mine: Project) -> None:
    before = sorted((p.name, p.read_bytes()) for p in mine.root.iterdir())
    file = foreign(mine, CLAUDE)
    printed = json.loads(mine.ok("import", file, "--print"))
    assert list(printed["mcpServers"]) == ["files"]
    Path(file).unlink()
    assert sorted((p.name, p.read_bytes()) for p in mine.root.iterdir()) == before


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "line 1, column 2"),
        ([], "holds no object"),
        ({"a": 1}, 'neither "mcpServers" nor "servers"'),
        (
            {"mcpServers": {"x": {"command": "a", "port": "b"}}},
            "mcpServers.x.port: must be a whole",
        ),
    ],
)
def test_files_that_can_not_be_used_change_nothing(
    mine: Project, content: Any, expected: str
) -> None:
    before = mine.config.read_text()
    assert expected in mine.error("import", foreign(mine, content))
    assert mine.config.read_text() == before
