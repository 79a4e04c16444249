"""Clients that nobody here wrote get through the gateway what they get directly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters

from tests import installed
from tests.gateway.harness import PATIENCE, PROJECT, WAYS, Gateway, Way
from tests.inspector import Inspector, install
from tests.modern import MODERN
from tests.realworld.answers import answers, tools
from tests.realworld.conftest import RealWorld
from tests.realworld.servers import Server
from tests.realworld.test_servers import direct, settled

pytestmark = [pytest.mark.npm, pytest.mark.timeout(1800)]

TYPESCRIPT = PROJECT / "tests" / "programs" / "typescript_client.mjs"
SDK1, SDK2 = "@modelcontextprotocol/sdk@1.32.2", "@modelcontextprotocol/client@2.4.0"
REMOTE = "mcp-remote@0.15.1"
PIN = {"pin": MODERN}


@pytest.fixture(scope="module")
def servers(servers: dict[str, Server]) -> dict[str, Server]:
    """Some of them: `mcpcp stdio` starts each one again."""
    return {name: servers[name] for name in ("time", "filesystem", "everything")}


# The Python SDK's


@pytest.mark.anyio
@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_the_python_sdk_by_every_way_and_era(real: RealWorld, way: Way) -> None:
    server = real.servers["time"]
    async with direct(server) as client:
        wanted = await tools(client), await answers(client, server.calls)
    async with real.gateway.client(way) as client:
        found = await settled(client, wanted[0], "time_")
        answered = await answers(client, server.calls, "time_")
    assert (found, answered) == wanted


# The TypeScript SDK's


def stdio(gateway: Gateway) -> dict[str, Any]:
    """How a TypeScript program starts `mcpcp stdio`."""
    return {
        "command": sys.executable,
        "args": ["-m", "mcpcp", "stdio", "--no-launch", "--config", str(gateway.config)],
        "env": {**gateway.environ, "MCPCP_TOKEN": gateway.token()},
    }


def target(gateway: Gateway, transport: str) -> dict[str, Any]:
    if transport == "stdio":
        return {"transport": "stdio", **stdio(gateway)}
    url = gateway.url("/sse" if transport == "sse" else "/mcp")
    return {"transport": transport, "url": url, "headers": gateway.headers()}


def typescript(sdk: int, options: dict[str, Any]) -> Any:
    """What the client prints."""
    modules = installed.npm(SDK1 if sdk == 1 else SDK2)
    options = {"sdk": sdk, "modules": str(modules), **options}
    ended = subprocess.run(
        [installed.node(), TYPESCRIPT, json.dumps(options)],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def steps(server: Server, prefix: str = "") -> list[tuple[str, dict[str, Any]]]:
    called = [("callTool", {"name": prefix + name, "arguments": a}) for name, a in server.calls]
    return [("listTools", {}), *called]


def comparable(printed: Any, prefix: str = "") -> Any:
    """The tools by the server's own names, and the answers; the eras' own members aside."""
    listed, *rest = printed["answers"]
    named = {tool["name"]: without(tool, "name", "execution") for tool in listed["tools"]}
    ours = {n.removeprefix(prefix): tool for n, tool in named.items() if n.startswith(prefix)}
    return ours, [without(answer, "_meta", "resultType") for answer in rest]


def without(value: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: each for key, each in value.items() if key not in keys}


BOTH_ERAS: list[tuple[str, int, str, Any, str | None]] = [
    ("time", 1, "http", None, "2025-11-25"),
    ("time", 1, "sse", None, None),
    ("time", 1, "stdio", None, None),
    ("time", 2, "http", "legacy", "2025-11-25"),
    ("time", 2, "http", "auto", MODERN),
    ("time", 2, "sse", "legacy", "2025-11-25"),
    ("time", 2, "stdio", "legacy", "2025-11-25"),
    ("time", 2, "stdio", PIN, MODERN),
]
ONLY_LEGACY: list[tuple[str, int, str, Any, str | None]] = [
    ("filesystem", 1, "http", None, "2025-11-25"),
    ("filesystem", 2, "http", "auto", MODERN),
]


@pytest.fixture(scope="module")
def asked() -> dict[tuple[int, str], Any]:
    """What each client got from a server itself: it is asked once."""
    return {}


def directly(asked: dict[tuple[int, str], Any], sdk: int, server: Server) -> Any:
    if (sdk, server.name) not in asked:
        itself = {"command": server.command, "args": server.args, "env": server.env}
        options = {"transport": "stdio", **itself, "steps": steps(server)}
        asked[sdk, server.name] = typescript(sdk, options)
    return asked[sdk, server.name]


@pytest.mark.parametrize(
    ("name", "sdk", "transport", "mode", "version"), BOTH_ERAS + ONLY_LEGACY, ids=str
)
def test_the_typescript_sdk_by_every_way_and_era(
    real: RealWorld,
    asked: dict[tuple[int, str], Any],
    name: str,
    sdk: int,
    transport: str,
    mode: Any,
    version: str | None,
) -> None:
    """One server speaks both eras, the other one only the legacy one."""
    server, prefix = real.servers[name], f"{name}_"
    options = {**target(real.gateway, transport), "steps": steps(server, prefix)}
    through = typescript(sdk, {**options, "mode": mode} if mode else options)
    assert comparable(through, prefix) == comparable(directly(asked, sdk, server))
    assert through["server"]["name"] == "mcpcp"
    assert through["version"] == version


# mcp-remote


@pytest.mark.anyio
@pytest.mark.parametrize("transport", ["http-only", "sse-only"])
async def test_mcp_remote_is_a_bridge_to_it(
    real: RealWorld, tmp_path: Path, transport: str
) -> None:
    """As Claude Desktop and others are told to reach what is on HTTP."""
    server = real.servers["time"]
    url = real.gateway.url("/sse" if transport == "sse-only" else "/mcp")
    header = f"Authorization:{real.gateway.headers()['Authorization']}"
    script = installed.npm(REMOTE) / "mcp-remote" / "dist" / "proxy.js"
    bridge = StdioServerParameters(
        command=str(installed.node()),
        args=[str(script), url, "--transport", transport, "--header", header],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "MCP_REMOTE_CONFIG_DIR": str(tmp_path),
        },
    )
    async with direct(server) as client:
        wanted = await tools(client), await answers(client, server.calls)
    async with Client(bridge, mode="legacy") as client:
        found = await tools(client, "time_"), await answers(client, server.calls, "time_")
    assert found == wanted


# The Inspector's command line


@pytest.fixture(scope="session")
def inspector_folder() -> Path:
    return install()


@pytest.mark.parametrize("era", ["legacy", "modern", "auto"])
@pytest.mark.parametrize("name", ["time", "everything"])
def test_the_inspector_in_every_era(
    real: RealWorld, inspector_folder: Path, tmp_path: Path, name: str, era: str
) -> None:
    inspector = Inspector(inspector_folder, tmp_path)
    header = f"Authorization: {real.gateway.headers()['Authorization']}"
    url = [real.gateway.url(), "--transport", "http", "--header", header]
    ask = [*url, "--protocol-era", era]
    listed = inspector.ask(*ask, "--method", "tools/list")["tools"]
    tool, given = {
        "time": ("convert_time", ["source_timezone=UTC", "time=01:00", "target_timezone=UTC"]),
        "everything": ("echo", ["message=hi there"]),
    }[name]
    assert f"{name}_{tool}" in [each["name"] for each in listed]
    flags = [part for each in given for part in ("--tool-arg", each)]
    called = ["--method", "tools/call", "--tool-name", f"{name}_{tool}", *flags]
    said = inspector.ask(*ask, *called)["content"][0]["text"]
    assert ("hi there" if name == "everything" else '"time_difference": "+0.0h"') in said


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_the_inspector_sees_prompts_and_resources(
    real: RealWorld, inspector_folder: Path, tmp_path: Path, era: str
) -> None:
    inspector = Inspector(inspector_folder, tmp_path)
    header = f"Authorization: {real.gateway.headers()['Authorization']}"
    ask = [real.gateway.url(), "--transport", "http", "--header", header, "--protocol-era", era]
    prompts = inspector.ask(*ask, "--method", "prompts/list")["prompts"]
    assert "everything_simple-prompt" in [prompt["name"] for prompt in prompts]
    resources = inspector.ask(*ask, "--method", "resources/list")["resources"]
    uri = next(each["uri"] for each in resources if each["uri"].endswith("/architecture.md"))
    read = inspector.ask(*ask, "--method", "resources/read", "--uri", uri)
    assert read["contents"][0]["text"]
