"""Servers that break the protocol: it costs them a call at most, and nobody else anything."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psutil
import pytest

from tests.gateway.harness import (
    PROJECT,
    Gateway,
    Way,
    call,
    modern,
    modern_headers,
    open_gateway,
    request,
)
from tests.gateway.test_http_protocol import initialize
from tests.gateway.test_servers_away import failing

pytestmark = pytest.mark.anyio

RUDE = PROJECT / "tests" / "programs" / "rude.py"
MODERN, LEGACY = Way("http", "auto"), Way("http", "legacy")
DEEP = 200


def add_rude(gateway: Gateway, name: str, **entry: Any) -> None:
    arguments = [str(RUDE), "--name", name]
    gateway.servers[name] = {"command": "python", "args": arguments, **entry}


@pytest.fixture(scope="module")
def rude(tmp_path_factory: pytest.TempPathFactory, keys: Any) -> Iterator[Gateway]:
    """One rude server that all share, one where each client has its own, and a good one."""
    with ExitStack() as stack:
        gateway = stack.enter_context(open_gateway(tmp_path_factory.mktemp("rude"), keys))
        add_rude(gateway, "rude", timeout="5s")
        add_rude(gateway, "own", timeout="5s", sessions="per_client")
        gateway.add_raw("raw")
        gateway.start()
        yield gateway


def message(**members: Any) -> str:
    return json.dumps({"jsonrpc": "2.0", **members})


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


def notice(params: str) -> str:
    return f'{{"jsonrpc":"2.0","method":"notifications/message","params":{params}}}'


NOISE = {
    "no JSON": "this is a stray print",
    "half a message": '{"jsonrpc":"2.0","id":',
    "binary": "\x00\x01\x7f",
    "no object": "[1, null, true]",
    "a number": "7",
    "empty object": "{}",
    "an id that we never sent": message(id=987654321, result={}),
    "an id of another kind": message(id={"a": []}, result={}),
    "an id of null": message(id=None, error={"code": -32700, "message": "what?"}),
    "a method of another kind": message(method=["x"], params={}),
    "an unknown notification": message(method="notifications/x/unknown", params=None),
    "progress that nobody asked for": message(
        method="notifications/progress", params={"progressToken": [1], "progress": 1}
    ),
    "progress without params": message(method="notifications/progress"),
    "an update of no URI": message(method="notifications/resources/updated", params={"uri": [1]}),
    "a cancellation of nothing": message(
        method="notifications/cancelled", params={"requestId": [1]}
    ),
    "a request with a list as params": message(id=1, method="sampling/createMessage", params=[1]),
    "a request with a text as meta": message(
        id=2, method="roots/list", params={"_meta": "x", "progressToken": []}
    ),
    "a request with a list as token": message(
        id=3, method="elicitation/create", params={"_meta": {"progressToken": [1]}}
    ),
    "a request whose id is a list": message(id=[1], method="roots/list"),
    "NaN": notice('{"level":"info","data":NaN}'),
    "infinity": notice('{"level":"info","data":1e999}'),
    "a number without end": notice('{"level":"info","data":' + "9" * 5000 + "}"),
    "duplicate keys": notice('{"level":"info","level":"error","data":1,"data":2}'),
    "half a surrogate": notice('{"level":"info","data":"\\ud800"}'),
    "200 levels deep": notice(nested(DEEP)),
    "500 levels deep": notice(nested(500)),
    "100,000 levels deep": notice(nested(100_000)),
    "lists 300 deep": notice("[" * 300 + "]" * 300),
}


@pytest.mark.parametrize("way", [MODERN, LEGACY], ids=str)
@pytest.mark.parametrize("server", ["rude", "own"])
@pytest.mark.parametrize("noise", NOISE)
async def test_noise_before_an_answer_does_not_disturb_the_answer(
    rude: Gateway, noise: str, server: str, way: Way
) -> None:
    async with rude.http() as http:
        session = {} if way.modern else await initialize(http)
        params = call(f"{server}_say", lines=[NOISE[noise]])
        body = modern("tools/call", params) if way.modern else request("tools/call", params)
        headers = modern_headers(body) if way.modern else session
        async with asyncio.timeout(10):
            answer = await http.post("/mcp", json=body, headers=headers)
    assert '"text":"said"' in answer.text
    assert rude.get("/health")[0] == 200


BAD_ANSWERS = {
    "neither result nor error": '{"jsonrpc":"2.0","id":$ID}',
    "an error of text": '{"jsonrpc":"2.0","id":$ID,"error":"broken"}',
    "an error without members": '{"jsonrpc":"2.0","id":$ID,"error":{}}',
    "an error whose code is a list": '{"jsonrpc":"2.0","id":$ID,"error":{"code":[1],"message":1}}',
    "result and error": '{"jsonrpc":"2.0","id":$ID,"result":1,"error":{"code":1,"message":"m"}}',
    "a result of null": '{"jsonrpc":"2.0","id":$ID,"result":null}',
    "a result of text": '{"jsonrpc":"2.0","id":$ID,"result":"x"}',
    "a result 200 levels deep": f'{{"jsonrpc":"2.0","id":$ID,"result":{nested(DEEP)}}}',
    "content of no objects": '{"jsonrpc":"2.0","id":$ID,"result":{"content":[1,{"uri":[]}]}}',
}


@pytest.mark.parametrize("way", [MODERN, LEGACY], ids=str)
@pytest.mark.parametrize("server", ["rude", "own"])
@pytest.mark.parametrize("bad", BAD_ANSWERS)
async def test_a_bad_answer_ends_its_own_call_at_once(
    rude: Gateway, bad: str, server: str, way: Way
) -> None:
    params = call(f"{server}_say", lines=[BAD_ANSWERS[bad]], answer=False)
    echo = call(f"{server}_echo", message="on")
    async with rude.http() as http:
        session = {} if way.modern else await initialize(http)
        answers = []
        for wanted in (params, echo):
            body = modern("tools/call", wanted) if way.modern else request("tools/call", wanted)
            headers = modern_headers(body) if way.modern else session
            async with asyncio.timeout(4):  # long before the server's timeout
                answers.append((await http.post("/mcp", json=body, headers=headers)).json())
    assert "result" in answers[0] or answers[0]["error"]["message"]
    assert answers[1]["result"]["content"][0]["text"] == "on"


@pytest.mark.parametrize("depth", [300, 1000])
async def test_an_answer_too_deep_to_pass_on_is_an_error_in_time(rude: Gateway, depth: int) -> None:
    """Nothing that an encoder of ours refuses may come as far as to a client's stream."""
    line = f'{{"jsonrpc":"2.0","id":$ID,"result":{nested(depth)}}}'
    for way in (MODERN, Way("sse", "legacy")):
        async with rude.client(way) as client:
            async with asyncio.timeout(10):
                await failing(client, "rude_say", lines=[line], answer=False)
            answer = await client.call_tool("rude_echo", {"message": "on"})
            assert answer.content[0].text == "on"


async def test_a_line_of_100_megabytes_costs_its_server_a_restart_and_bounded_memory(
    fresh: Gateway,
) -> None:
    add_rude(fresh, "rude")
    fresh.add_raw("raw")
    fresh.start()
    before = psutil.Process(fresh.pid).memory_info().rss
    async with fresh.client(MODERN) as client, asyncio.TaskGroup() as tasks:
        flood = tasks.create_task(failing(client, "rude_flood", megabytes=100))
        slowest = 0.0
        while not flood.done():
            began = time.monotonic()
            await client.call_tool("raw_echo", {"message": "quick"})
            slowest = max(slowest, time.monotonic() - began)
        assert "rude" in str(flood.result())
        answer = await client.call_tool("rude_echo", {"message": "back"})
        assert answer.content[0].text == "back"
    assert slowest < 1.0
    assert psutil.Process(fresh.pid).memory_info().rss - before < 250 * 2**20
