"""`Mcp-Param-*` from end to end: checked in front, made anew behind, for clients of either era."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.backends.raw import Asked, ask, serving, whole
from tests.gateway.harness import Gateway, call, modern, modern_headers, request
from tests.gateway.test_http_protocol import code, initialize
from tests.modern import MODERN

pytestmark = pytest.mark.anyio

SCHEMA = {
    "type": "object",
    "properties": {
        "region": {"type": "string", "x-mcp-header": "Region"},
        "where": {
            "type": "object",
            "properties": {"floor": {"type": "integer", "x-mcp-header": "Floor"}},
        },
    },
}


RESULTS: dict[str, Any] = {
    "server/discover": {"supportedVersions": [MODERN], "capabilities": {"tools": {}}},
    "tools/list": {"tools": [{"name": "locate", "inputSchema": SCHEMA}]},
    "tools/call": {"content": [{"type": "text", "text": "there"}]},
}


def _answer(message: Any) -> bytes:
    """That of a server which knows the modern era alone."""
    result = RESULTS.get(message["method"])
    if result is None:
        said: Any = {"error": {"code": -32601, "message": "Method not found"}}
    else:
        said = {"result": {"resultType": "complete", **result}}
    return whole(json.dumps({"jsonrpc": "2.0", "id": message.get("id"), **said}).encode())


@asynccontextmanager
async def locating(gateway: Gateway) -> AsyncIterator[list[Asked]]:
    """A started gateway before a modern server in our own loop; the calls that reach that."""
    calls: list[Asked] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (asked := await ask(reader)) is not None:
            message = json.loads(asked.body)
            if message["method"] == "tools/call":
                calls.append(asked)
            writer.write(_answer(message))
            await writer.drain()

    async with serving(handle) as server:
        tools = {"rename": {"locate": "find"}}
        gateway.servers["map"] = {"url": server.url, "tools": tools}
        await asyncio.to_thread(gateway.start)
        yield calls
        await asyncio.to_thread(gateway.close)


def encoded(text: str) -> str:
    """A header's value that is no plain ASCII."""
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="


def shown(asked: Asked) -> dict[str, str]:
    """What a server sees in the headers that mirror the body."""
    return {k: v for k, v in asked.headers.items() if k.startswith(("mcp-param-", "mcp-name"))}


@pytest.mark.parametrize(
    ("region", "header"), [("north", "north"), ("Grüße, 世界", encoded("Grüße, 世界"))]
)
async def test_headers_that_mirror_the_arguments_reach_the_server_as_its_schema_wants_them(
    fresh: Gateway, region: str, header: str
) -> None:
    async with locating(fresh) as calls, fresh.http() as http:
        body = modern("tools/call", call("map_find", region=region, where={"floor": 3}))
        headers = {**modern_headers(body), "Mcp-Param-Region": header, "Mcp-Param-Floor": "3"}
        answer = await http.post("/mcp", json=body, headers=headers)
        assert '"text":"there"' in answer.text
        (asked,) = calls
        wanted = {"mcp-name": "locate", "mcp-param-region": header, "mcp-param-floor": "3"}
        assert shown(asked) == wanted
        assert json.loads(asked.body)["params"]["arguments"] == body["params"]["arguments"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Mcp-Param-Region": "south"},
        {"Mcp-Param-Region": encoded("south")},
        {"Mcp-Param-Region": "north", "Mcp-Param-Floor": "3"},
    ],
    ids=["missing", "another value", "another value in base64", "one too many"],
)
async def test_headers_that_mislead_reach_no_server(
    fresh: Gateway, headers: dict[str, str]
) -> None:
    async with locating(fresh) as calls, fresh.http() as http:
        body = modern("tools/call", call("map_find", region="north"))
        answer = await http.post("/mcp", json=body, headers={**modern_headers(body), **headers})
        assert (answer.status_code, code(answer)) == (400, -32020)
        assert not calls


async def test_a_legacy_client_sends_none_and_the_server_gets_them_all_the_same(
    fresh: Gateway,
) -> None:
    async with locating(fresh) as calls, fresh.http() as http:
        session = await initialize(http)
        body = request("tools/call", call("map_find", region="north", where={"floor": 1}), 2)
        answer = await http.post("/mcp", json=body, headers=session)
        assert '"text":"there"' in answer.text
        wanted = {"mcp-name": "locate", "mcp-param-region": "north", "mcp-param-floor": "1"}
        assert shown(calls[0]) == wanted
