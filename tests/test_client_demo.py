"""client.py against a real gateway: what a user sees is what the README promises."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet import PATIENCE
from tests.gateway.harness import PROJECT, Gateway, open_gateway

AGENT_1 = """\
🔍 Getting tools for agent: agent_name1
📋 Agent has access to servers: ['mcp1', 'mcp3']
✅ Found 5 tools:
   - mcp1_echo
   - mcp1_update_battle_process
   - mcp1_report_on_battle_end
   - mcp3_echo
   - mcp3_run_python_code
📞 mcp1_echo answered: Hello from agent_name1
🚫 mcp2_echo was refused: Unknown tool: mcp2_echo
   The token's claim lacks mcp2: its `allow` is {'mcp1': ['*'], 'mcp3': ['*']}.
   To an agent, a tool that it may not use looks like one that does not exist.
"""
AGENT_2 = """\
🔍 Getting tools for agent: agent_name2
📋 Agent has access to servers: ['mcp2', 'mcp3']
✅ Found 4 tools:
   - mcp2_echo
   - mcp2_run_docker
   - mcp3_echo
   - mcp3_run_python_code
📞 mcp2_echo answered: Hello from agent_name2
🚫 mcp1_echo was refused: Unknown tool: mcp1_echo
   The token's claim lacks mcp1: its `allow` is {'mcp2': ['*'], 'mcp3': ['*']}.
   To an agent, a tool that it may not use looks like one that does not exist.
"""
SCRIPTS = {"mcp1": "battle.py", "mcp2": "docker_commands.py", "mcp3": "python_code.py"}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Gateway]:
    """The user's three servers, started by the gateway itself, and the two agents."""
    with open_gateway(tmp_path_factory.mktemp("demo"), keys) as made:
        for name, script in SCRIPTS.items():
            made.servers[name] = {"command": "python", "args": [str(PROJECT / "servers" / script)]}
        made.agents = {
            "agent_name1": {"allow": {"mcp1": ["*"], "mcp3": ["*"]}},
            "agent_name2": {"allow": {"mcp2": ["*"], "mcp3": ["*"]}},
        }
        made.start()
        yield made


def run(gateway: Gateway, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROJECT / "client.py"), "--no-bootstrap"]
    return subprocess.run(
        [*command, "--config", str(gateway.config), *flags],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=gateway.folder,
        env={**gateway.environ, "PYTHONIOENCODING": "utf-8"},
    )


def test_it_prints_each_agent_s_tools_calls_one_and_is_refused_one(gateway: Gateway) -> None:
    result = run(gateway)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{AGENT_1}\n{AGENT_2}\n"


def test_it_shows_one_agent_when_asked(gateway: Gateway) -> None:
    assert run(gateway, "--agent", "agent_name2").stdout == f"{AGENT_2}\n"


def test_an_agent_that_is_not_in_the_config_is_an_error_that_names_the_others(
    gateway: Gateway,
) -> None:
    result = run(gateway, "--agent", "nobody")
    assert result.returncode == 1
    assert "agent_name1, agent_name2" in result.stderr
    assert "Traceback" not in result.stderr


def test_without_a_gateway_it_says_how_to_start_one(gateway: Gateway, tmp_path: Path) -> None:
    with open_gateway(tmp_path, gateway.keys) as stopped:
        stopped.agents = gateway.agents
        stopped.add_raw("mcp1")
        stopped.write()
        result = run(stopped)
    assert result.returncode == 1
    assert "python3 launch_servers.py" in result.stderr
    assert "Traceback" not in result.stderr


def test_what_is_no_mcp_server_is_not_listed_as_one(gateway: Gateway) -> None:
    text = json.loads(gateway.config.read_text())
    text["mcpServers"]["store"] = {"type": "service", "command": "python", "port": 1}
    text["agents"]["everything"] = {"allow": {"*": ["*"]}}
    other = gateway.config.with_name("other.json")
    other.write_text(json.dumps(text))
    shown = run(gateway, "--config", str(other), "--agent", "everything").stdout
    assert "📋 Agent has access to servers: ['mcp1', 'mcp2', 'mcp3']\n" in shown
