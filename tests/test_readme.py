"""What the README says is run here, command by command, against the default servers."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mcpcp.config import loads
from tests.fleet import PATIENCE, PROJECT, Fleet, make_keys, open_fleet

README = (PROJECT / "README.md").read_text("utf-8")
MADE_BY_THE_FIXTURE = ("python3 launch_servers.py", "mcpcp up --background", "mcpcp down")
THIS_RUN = "python3 -m tests"


def blocks(language: str) -> list[str]:
    """The README's fenced blocks of that language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Every command in the README's shell blocks, without its comment."""
    lines = "".join(blocks("sh")).splitlines()
    return [line.partition("  #")[0].strip() for line in lines if line.strip()]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """The project's own config on free ports, running."""
    config = json.loads((PROJECT / "mcpcp.json").read_text())
    keys = make_keys(tmp_path_factory.mktemp("keys"))
    with open_fleet(tmp_path_factory.mktemp("readme"), keys) as fleet:
        for name, entry in config["mcpServers"].items():
            fleet.servers[name] = {**entry, "cwd": str(PROJECT), "port": fleet.port()}
        move_database(fleet)
        fleet.servers["mcp1"]["env"] = {"BATTLE_LOG_DIR": str(fleet.folder / "battles")}
        fleet.agents |= config["agents"]
        fleet.launch()
        yield fleet


def move_database(fleet: Fleet) -> None:
    """Have the shop keep its data in the fixture's folder, behind the fixture's port."""
    database = fleet.servers["shop_db"]
    database["args"] += ["--data-dir", str(fleet.folder / "mongo")]
    for name in ("shop_auth", "shop_buyer", "shop_seller"):
        fleet.servers[name]["env"] = {"MONGODB_URI": f"mongodb://127.0.0.1:{database['port']}"}


def run(fleet: Fleet, command: str) -> subprocess.CompletedProcess[str]:
    """A README command as a user types it, on the fixture's config."""
    words = shlex.split(command)
    if words[0] == "mcpcp":
        words[:1] = [sys.executable, "-m", "mcpcp"]
    elif words[0] in ("python", "python3"):
        words[:1] = [sys.executable]
    env = {**fleet.environ, "MCPCP_CONFIG": str(fleet.config)}
    if "servers.shop.demo" in words:
        env |= fleet.servers["shop_buyer"]["env"]
    return subprocess.run(
        words,
        cwd=PROJECT,
        env=env,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def runnable() -> list[str]:
    return [c for c in commands() if c not in MADE_BY_THE_FIXTURE and c != THIS_RUN]


@pytest.mark.parametrize("command", runnable())
def test_each_command_works_as_the_readme_says(fleet: Fleet, command: str) -> None:
    done = run(fleet, command)
    found_missing = command == "mcpcp doctor" and done.returncode == 1  # it says so by its code
    assert done.returncode == 0 or found_missing, done.stderr
    assert done.stdout.strip()


def test_the_shops_conversation_is_as_the_readme_shows(fleet: Fleet) -> None:
    assert run(fleet, "python -m servers.shop.demo").returncode == 0
    session = ""
    answers: dict[str, Any] = {}
    for line in "".join(blocks("tools")).splitlines():
        tool, _, arguments = line.partition(" ")
        given = json.loads(arguments.replace("SESSION", session))
        answers[tool] = fleet.call(tool, **given)
        session = answers[tool].get("session", session)
    (order,) = answers["shop_buyer_list_orders"]["orders"]
    assert order == answers["shop_buyer_place_order"]
    assert (order["state"], order["total"]) == ("placed", "9.00 EUR")


def test_the_demo_prints_the_lists_that_the_readme_shows(fleet: Fleet) -> None:
    shown = run(fleet, "python client.py --no-bootstrap").stdout
    for block in blocks("text"):
        assert block in shown
    second = shown.partition("agent: agent_name2\n")[2].splitlines()
    assert second[:6] == [
        "📋 Agent has access to servers: ['mcp2', 'mcp3']",
        "✅ Found 4 tools:",
        "   - mcp2_echo",
        "   - mcp2_run_docker",
        "   - mcp3_echo",
        "   - mcp3_run_python_code",
    ]


def test_the_config_examples_are_valid() -> None:
    whole = json.loads((PROJECT / "mcpcp.json").read_text())
    for block in blocks("json"):
        for section, entries in json.loads(block).items():
            whole[section].update(entries)
    config = loads(json.dumps(whole), PROJECT / "mcpcp.json", {"DOCS_TOKEN": "x"})
    assert {"git", "docs", "mine"} <= config.servers.keys()
    assert config.agents["reviewer"].permits("git", "git_diff_staged")
    assert not config.warnings


def test_a_background_fleet_starts_and_stops_as_the_readme_says(fleet: Fleet) -> None:
    fleet.stop(fleet.launched[0])
    assert run(fleet, "mcpcp up --background").returncode == 0
    assert fleet.get("/health") == 200
    assert run(fleet, "mcpcp logs mcp1").returncode == 0
    assert run(fleet, "mcpcp down").returncode == 0
    assert fleet.get("/health") == 0


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)", README)
    assert links
    assert not [link for link in links if "://" not in link and not (PROJECT / link).exists()]


def test_the_two_commands_are_there() -> None:
    assert "python3 launch_servers.py" in commands()
    assert THIS_RUN in commands()
    assert os.access(PROJECT / "launch_servers.py", os.R_OK)
    assert Path(PROJECT, "tests", "__main__.py").is_file()
