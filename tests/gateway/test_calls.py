"""Lists and calls through a real gateway, by every transport and era that a client may use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mcp import MCPError

from tests.gateway.harness import WAYS, Gateway, Way, call, modern, modern_headers

pytestmark = pytest.mark.anyio

way = pytest.mark.parametrize("way", WAYS, ids=str)


async def names(client: Any) -> list[str]:
    return [tool.name for tool in (await client.list_tools()).tools]


@way
async def test_an_agent_sees_its_tools_under_their_prefixes(gateway: Gateway, way: Way) -> None:
    async with gateway.client(way) as client:
        found = await names(client)
        assert client.protocol_version == ("2026-07-28" if way.modern else "2025-11-25")
    assert found[:2] == ["raw_echo", "raw_seen"]
    assert "o_echo" in found
    assert found[-1] == "bare"
    assert len(found) == 29


@way
async def test_another_agent_sees_only_what_its_token_grants(gateway: Gateway, way: Way) -> None:
    async with gateway.client(way, "echo_only") as client:
        assert await names(client) == ["raw_echo"]
        answer = await client.call_tool("raw_echo", {"message": "hi"})
        assert answer.content[0].text == "hi"
        with pytest.raises(MCPError, match="Unknown tool: raw_pid"):
            await client.call_tool("raw_pid", {})
        with pytest.raises(MCPError, match="Unknown tool: o_echo"):
            await client.call_tool("o_echo", {})


@way
async def test_a_call_passes_structured_content_errors_and_instructions(
    gateway: Gateway, way: Way
) -> None:
    async with gateway.client(way) as client:
        assert "How to use raw." in (client.instructions or "")
        answer = await client.call_tool("raw_seen", {"a": [1, {"b": None}]})
        assert answer.structured_content["arguments"] == {"a": [1, {"b": None}]}
        assert answer.structured_content["name"] == "seen"
        failed = await client.call_tool("raw_fail", {})
        assert failed.is_error
        assert failed.content[0].text == "it went wrong"
        with pytest.raises(MCPError, match="Method not found"):
            await client.call_tool("raw_refuse", {})


@way
async def test_progress_reaches_the_client_in_order(gateway: Gateway, way: Way) -> None:
    told: list[tuple[float, str | None]] = []

    async def progressed(done: float, total: float | None, message: str | None) -> None:
        told.append((done, message))

    async with gateway.client(way) as client:
        arguments = {"steps": 20}
        answer = await client.call_tool("raw_progress", arguments, progress_callback=progressed)
        assert answer.content[0].text == "all steps"
    assert told == [(step, f"step {step}") for step in range(20)]


@way
async def test_a_tool_of_an_empty_prefix_keeps_its_name(gateway: Gateway, way: Way) -> None:
    async with gateway.client(way) as client:
        answer = await client.call_tool("bare", {"message": "as it is"})
        assert answer.content[0].text == "as it is"


@way
async def test_an_agent_without_grants_sees_an_empty_list(gateway: Gateway, way: Way) -> None:
    async with gateway.client(way, "nothing") as client:
        assert await names(client) == []


async def test_members_that_nobody_knows_pass_in_both_directions(gateway: Gateway) -> None:
    body = modern("tools/call", call("raw_seen") | {"xMine": {"k": 1}, "_meta": {"x/own": "v"}})
    async with gateway.http() as http:
        answer = (await http.post("/mcp", json=body, headers=modern_headers(body))).json()
        listing = modern("tools/list")
        listed = (await http.post("/mcp", json=listing, headers=modern_headers(listing))).json()
    assert answer["result"]["xUnknown"] == {"kept": [1, None]}
    received = answer["result"]["structuredContent"]
    assert received["xMine"] == {"k": 1}
    assert received["_meta"]["x/own"] == "v"
    assert all(t["xUnknown"] == {"a": 1} for t in listed["result"]["tools"])


async def test_an_error_of_the_server_passes_whole(gateway: Gateway) -> None:
    body = modern("tools/call", call("raw_refuse"), "an id")
    async with gateway.http() as http:
        answer = (await http.post("/mcp", json=body, headers=modern_headers(body))).json()
    error = {"code": -32601, "message": "Method not found", "data": ["d"], "xUnknown": True}
    assert answer == {"jsonrpc": "2.0", "id": "an id", "error": error}


async def test_the_gateway_says_who_calls_and_a_client_cannot(gateway: Gateway) -> None:
    body = modern("tools/call", call("raw_seen") | {"_meta": {"mcpcp/agent": "root"}})
    token = gateway.token_for("somebody", {"raw": ["*"]})
    async with gateway.http(token) as http:
        answer = (await http.post("/mcp", json=body, headers=modern_headers(body))).json()
    meta = answer["result"]["structuredContent"]["_meta"]
    assert meta.keys() == {"mcpcp/agent", "mcpcp/request"}
    assert meta["mcpcp/agent"] == "somebody"


async def test_a_client_s_token_never_reaches_a_server(gateway: Gateway) -> None:
    token = gateway.token()
    body = modern("tools/call", call("raw_seen"))
    environment = modern("tools/call", call("raw_env"))
    async with gateway.http(token) as http:
        for message in (body, environment):
            answer = await http.post("/mcp", json=message, headers=modern_headers(message))
            assert token not in answer.text


async def test_a_modern_server_serves_both_eras(fresh: Gateway) -> None:
    fresh.add_raw("new", "--modern")
    fresh.start()
    for one in (Way("http", "legacy"), Way("http", "auto")):
        async with fresh.client(one) as client:
            answer = await client.call_tool("new_seen", {})
            meta = answer.structured_content["_meta"]
            assert meta["io.modelcontextprotocol/protocolVersion"] == "2026-07-28"
            assert meta["io.modelcontextprotocol/clientInfo"]["name"] == "mcp"
            assert meta["mcpcp/agent"] == "tester"


async def test_a_server_gets_no_secret_of_ours(fresh: Gateway, tmp_path: Path) -> None:
    fresh.environ |= {"AWS_SECRET_ACCESS_KEY": "s3cret", "OPENAI_API_KEY": "s3cret", "LANG": "C"}
    fresh.environ |= {"MCPCP_TOKEN": "s3cret", "GIVEN": "s3cret"}
    fresh.add_raw("raw", env={"NAMED": "yes", "PASSED": "${GIVEN}-on"})
    fresh.start()
    async with fresh.client(Way("http", "auto")) as client:
        env = (await client.call_tool("raw_env", {})).structured_content
    assert env["NAMED"] == "yes"
    assert env["PASSED"] == "s3cret-on"
    assert {"PATH", "LANG"} <= env.keys()
    assert [name for name, value in env.items() if value == "s3cret"] == []
    assert not {name for name in env if name.startswith("MCPCP_")}


@way
@pytest.mark.parametrize(
    "text",
    [
        pytest.param('0123456789 lorem ipsum "quoted" \\ \n' * 3000, id="ascii"),
        pytest.param("Fünf große Körbe 五つの大きな籠 \U0001f9fa " * 3000, id="everything else"),
        pytest.param("[{" * 20_000, id="brackets"),
    ],
)
async def test_a_long_answer_comes_whole(gateway: Gateway, way: Way, text: str) -> None:
    async with gateway.client(way) as client:
        answer = await client.call_tool("raw_echo", {"message": text})
        assert answer.content[0].text == text
