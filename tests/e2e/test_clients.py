"""Clients that are not ours: the SDK's and the MCP Inspector's, over every way in."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from mcp import MCPError
from mcp.client import Client
from mcp.client.sse import sse_client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from tests import installed
from tests.fleet import PATIENCE, CallFailed, Fleet, rpc

INSPECTOR = "@modelcontextprotocol/inspector@1.0.3"
"""The last one for the Node 20 that distributions have."""
WAYS = ("http", "sse", "stdio")


@contextlib.asynccontextmanager
async def connected(fleet: Fleet, way: str) -> AsyncIterator[Client]:
    """The SDK's client."""
    headers = {"Authorization": f"Bearer {fleet.token()}"}
    url = f"http://127.0.0.1:{fleet.gateway['port']}"
    if way == "stdio":
        command = ["-m", "mcpcp", "stdio", "--agent", "tester", "--config", str(fleet.config)]
        server = StdioServerParameters(command=sys.executable, args=command, env=fleet.environ)
        async with Client(stdio_client(server)) as client:
            yield client
    elif way == "sse":
        streams = sse_client(f"{url}/sse", headers=headers, timeout=PATIENCE)
        async with Client(streams, mode="legacy") as client:
            yield client
    else:
        async with (
            httpx2.AsyncClient(headers=headers, timeout=PATIENCE) as http,
            Client(streamable_http_client(f"{url}/mcp", http_client=http)) as client,
        ):
            yield client


@pytest.mark.anyio
@pytest.mark.parametrize("way", WAYS)
async def test_the_sdks_client_lists_calls_and_is_refused(fleet: Fleet, way: str) -> None:
    fleet.agents["tester"] = {"allow": {"mcp1": ["echo", "pid"]}}
    fleet.add("mcp1")
    fleet.add("mcp2")
    fleet.launch()
    async with connected(fleet, way) as client:
        names = [tool.name for tool in (await client.list_tools()).tools]
        assert sorted(names) == ["mcp1_echo", "mcp1_pid"]
        answer = await client.call_tool("mcp1_echo", {"message": "hi"})
        assert answer.content[0].text == "hi"  # type: ignore[union-attr]
        for denied in ("mcp1_breed", "mcp2_echo", "mcp9_echo"):
            with pytest.raises(MCPError, match="Unknown tool"):
                await client.call_tool(denied, {"message": "hi"})


@pytest.mark.parametrize(
    "token",
    ["", "nonsense", "e30.e30.e30", "x" * 1_000_000],
    ids=["none", "nonsense", "empty claims", "1 MB"],
)
def test_without_a_good_token_nothing_is_told(fleet: Fleet, token: str) -> None:
    fleet.add("mcp1")
    fleet.launch()
    url = f"http://127.0.0.1:{fleet.gateway['port']}/mcp"
    with pytest.raises(CallFailed) as refused:
        rpc(url, token, "tools/list", {}, PATIENCE)
    assert "mcp1" not in str(refused.value)
    assert fleet.call("mcp1_echo", message="hi") == "hi"


@pytest.fixture(scope="session")
def inspector() -> list[str]:
    """The Inspector's command line, installed once for all workers."""
    return [str(installed.npm(INSPECTOR) / ".bin" / "mcp-inspector"), "--cli"]


def inspect(fleet: Fleet, command: list[str], *arguments: str) -> Any:
    """What the Inspector prints."""
    done = subprocess.run(
        [*command, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**fleet.environ, "MCPCP_CONFIG": str(fleet.config)},
        cwd=fleet.folder,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.npm
@pytest.mark.timeout(1500)
def test_the_inspector_lists_and_calls_over_every_way_in(
    fleet: Fleet, inspector: list[str]
) -> None:
    fleet.add("mcp1")
    fleet.launch()
    url = f"http://127.0.0.1:{fleet.gateway['port']}"
    header = ("--header", f"Authorization: Bearer {fleet.token()}")
    stdio = (sys.executable, "-m", "mcpcp", "stdio", "--agent", "tester")
    call = ("--method", "tools/call", "--tool-name", "mcp1_echo", "--tool-arg", "message=hi")
    for target in (
        (f"{url}/mcp", "--transport", "http", *header),
        (f"{url}/sse", "--transport", "sse", *header),
        stdio,
    ):
        listed = inspect(fleet, inspector, *target, "--method", "tools/list")
        assert "mcp1_echo" in [tool["name"] for tool in listed["tools"]]
        assert inspect(fleet, inspector, *target, *call)["content"][0]["text"] == "hi"
