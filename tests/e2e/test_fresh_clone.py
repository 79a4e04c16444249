"""The README's two commands, from a clone, with nothing but a bare Python."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fleet import PATIENCE, PROJECT, Fleet

BARE = str(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}")


def clone(folder: Path) -> Path:
    """The files that git has or would add, as they are now."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, names.split("\0")):
        if (PROJECT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, folder / name)
    return folder


@pytest.mark.timeout(1500)
@pytest.mark.skipif(not (PROJECT / ".git").exists(), reason="not a git checkout")
def test_a_fresh_clone_launches_shows_the_lists_and_stops(fleet: Fleet) -> None:
    checkout = clone(fleet.folder / "clone")
    settings = json.loads((checkout / "mcpcp.json").read_text())
    for server in settings["mcpServers"].values():
        server["port"] = fleet.port()
    settings["gateway"]["port"] = fleet.gateway["port"]
    (checkout / "mcpcp.json").write_text(json.dumps(settings))
    env = {k: v for k, v in fleet.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH")}
    with (fleet.folder / "launcher.log").open("wb") as log:
        launcher = subprocess.Popen(
            [BARE, "launch_servers.py"], cwd=checkout, env=env, stdout=log, stderr=log
        )
    fleet.launched.append(launcher)
    fleet.until(lambda: fleet.get("/ready") == 200, "the gateway is ready", timeout=900)
    assert (checkout / ".venv").is_dir()
    keys = list((checkout / "keys").glob("*.pem"))
    assert len(keys) == 1
    assert os.stat(keys[0]).st_mode & 0o077 == 0  # noqa: PTH116  the mode as the system has it
    said = subprocess.run(
        [BARE, "client.py"], cwd=checkout, env=env, capture_output=True, text=True, timeout=PATIENCE
    )
    assert said.returncode == 0, said.stderr
    first, second = said.stdout.split("🔍 Getting tools for agent: ")[1:3]
    assert first.startswith("agent_name1\n📋 Agent has access to servers: ['mcp1', 'mcp3']\n")
    assert listed(first) == [
        "mcp1_echo",
        "mcp1_update_battle_process",
        "mcp1_report_on_battle_end",
        "mcp3_echo",
        "mcp3_run_python_code",
    ]
    assert second.startswith("agent_name2\n📋 Agent has access to servers: ['mcp2', 'mcp3']\n")
    assert listed(second) == ["mcp2_echo", "mcp2_run_docker", "mcp3_echo", "mcp3_run_python_code"]
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(PATIENCE) == 0
    assert "Installing" in fleet.log()
    with (fleet.folder / "again.log").open("wb") as log:
        again = subprocess.Popen(
            [BARE, "launch_servers.py"], cwd=checkout, env=env, stdout=log, stderr=log
        )
    fleet.launched.append(again)
    fleet.wait_ready()
    assert "Installing" not in (fleet.folder / "again.log").read_text()


def listed(text: str) -> list[str]:
    """The tools' names."""
    lines = text.splitlines()
    names = [line.strip()[2:] for line in lines if line.startswith("   - ")]
    assert f"✅ Found {len(names)} tools:" in lines
    return names
