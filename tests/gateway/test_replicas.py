"""Two gateways on one Redis act as one: whichever a load balancer picks will do."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mcpcp import tokens
from mcpcp.config import load
from mcpcp.state import open_revocations
from mcpcp.state.shared import BEAT
from tests.gateway.harness import (
    PATIENCE,
    PROJECT,
    Gateway,
    call,
    modern,
    modern_headers,
    open_gateway,
    request,
)
from tests.gateway.test_sessions import NEWEST, Events, ask, begin
from tests.redis import RedisServer, open_redis

RUDE = PROJECT / "tests" / "programs" / "rude.py"
pytestmark = pytest.mark.anyio

Pair = tuple[Gateway, Gateway, RedisServer]


@pytest.fixture
def pair(tmp_path: Path, keys: Path) -> Iterator[Pair]:
    """Two gateways with one config's worth of servers, keys and state."""
    with ExitStack() as stack:
        redis = stack.enter_context(open_redis(tmp_path / "redis"))
        made = []
        for name in ("one", "two"):
            folder = tmp_path / name
            folder.mkdir()
            gateway = stack.enter_context(open_gateway(folder, keys))
            gateway.environ["STATE_URL"] = redis.url
            gateway.add_raw("raw")
            gateway.servers["old"] = {
                "command": "python",
                "args": [str(RUDE)],
                "sessions": "per_client",
            }
            gateway.agents["few"] = {
                "allow": {"raw": ["*"]},
                "limits": {"calls_per_minute": 2},
            }
            gateway.start()
            made.append(gateway)
        yield made[0], made[1], redis


async def test_a_session_goes_on_in_whichever_gateway_is_asked(pair: Pair, tmp_path: Path) -> None:
    one, two, _ = pair
    token = one.token()
    async with one.http(token) as first, two.http(token) as second, asyncio.timeout(PATIENCE):
        session = await begin(first)
        answer = await ask(second, session, "tools/call", call("raw_pid"))
        pid = answer["content"][0]["text"]
        assert (
            pid == (await ask(first, session, "tools/call", call("raw_pid")))["content"][0]["text"]
        )
        params = call("raw_wait", file=str(tmp_path / "begun"), until=str(tmp_path / "until"))
        params["_meta"] = {"progressToken": "p"}
        body = request("tools/call", params, "call")
        async with second.stream("POST", "/mcp", json=body, headers=session) as response:
            events = Events(response)
            assert (await events.next())["params"]["progressToken"] == "p"
            (tmp_path / "until").touch()
            assert (await events.next())["id"] == "call"
        async with second.stream(
            "GET", "/mcp", headers={**session, "Accept": "text/event-stream"}
        ) as response:
            await ask(second, session, "tools/call", call("raw_grow", name="more"))
            assert (await Events(response).next())["method"].endswith("tools/list_changed")
        assert (await second.delete("/mcp", headers=session)).status_code == 200
        gone = await first.post("/mcp", json=request("tools/list"), headers=session)
        assert gone.status_code == 404


async def test_a_thief_gets_nothing_by_the_detour(pair: Pair) -> None:
    one, two, _ = pair
    async with one.http() as first, two.http(two.token("few")) as thief:
        session = await begin(first)
        stolen = await thief.post("/mcp", json=request("tools/list"), headers=session)
        assert stolen.status_code == 404
    async with two.http("no token") as nobody:
        refused = await nobody.post("/mcp", json=request("tools/list"), headers=session)
        assert refused.status_code == 401


async def test_a_parked_call_goes_on_by_way_of_another_gateway(pair: Pair) -> None:
    one, two, _ = pair
    token = one.token()
    capabilities: dict[str, Any] = {"io.modelcontextprotocol/clientCapabilities": {"sampling": {}}}

    async def post(gateway: Gateway, params: Any) -> Any:
        body = modern("tools/call", {**params, "_meta": capabilities})
        async with gateway.http(token) as http:
            return (await http.post("/mcp", json=body, headers=modern_headers(body))).json()

    params = call("old_ask")
    result = (await post(one, params))["result"]
    ((key, _),) = result["inputRequests"].items()
    content = {"role": "assistant", "model": "m", "content": {"type": "text", "text": "mine"}}
    again = {**params, "inputResponses": {key: content}, "requestState": result["requestState"]}
    assert "mine" in (await post(two, again))["result"]["content"][0]["text"]
    waiting = (await post(one, params))["result"]
    one.stop(signal.SIGKILL)
    late = await post(two, {**again, "requestState": waiting["requestState"]})
    assert "call again" in late["error"]["message"]


async def test_the_calls_of_a_minute_are_counted_together(pair: Pair) -> None:
    one, two, _ = pair
    token = one.token("few", held_to=load(one.config, one.environ).agent_limits["few"])
    body = modern("tools/call", call("raw_echo", message="x"))
    said = []
    for gateway in (one, two, one):
        async with gateway.http(token) as http:
            answer = await http.post("/mcp", json=body, headers=modern_headers(body))
            said.append("calls_per_minute" in answer.text)
    assert said == [False, False, True]


async def test_a_revoked_token_is_refused_by_both_with_their_next_beat(pair: Pair) -> None:
    one, two, _ = pair
    token = one.token()
    claims = tokens.read_claims(token)
    async with one.http(token) as first, two.http(token) as second:
        for http in (first, second):
            await begin(http)
        open_revocations(load(one.config, one.environ)).revoke(claims["jti"], claims["exp"])
        for http in (first, second):
            hello = request("initialize", NEWEST)
            async with asyncio.timeout(PATIENCE):
                while (answer := await http.post("/mcp", json=hello)).status_code != 401:
                    pass
            assert "revoked" in answer.text
    assert BEAT < 1


def kept(redis: RedisServer) -> int:
    """Events on record, of all sessions."""
    with redis.client() as client:
        return sum(int(client.xlen(name)) for name in client.keys("mcpcp:events:*"))


@pytest.mark.parametrize("by_way_of", [0, 1], ids=["asked", "asked by way of the other"])
async def test_what_a_killed_gateway_had_to_tell_is_told_by_another(
    pair: Pair, tmp_path: Path, by_way_of: int
) -> None:
    one, two, redis = pair
    token = one.token()
    params = call("raw_wait", file=str(tmp_path / "begun"))
    params["_meta"] = {"progressToken": "p"}
    async with one.http(token) as first, two.http(token) as second, asyncio.timeout(PATIENCE):
        session = await begin(first)
        body = request("tools/call", params, "call")
        asked = (first, second)[by_way_of]
        async with asked.stream("POST", "/mcp", json=body, headers=session) as response:
            events = Events(response)
            await events.next()
            await one.until(lambda: kept(redis) >= 2, "the events were not kept")
            one.stop(signal.SIGKILL)
            if asked is second:
                assert await events.next() is None
        headers = {**session, "Last-Event-ID": events.last, "Accept": "text/event-stream"}
        async with second.stream("GET", "/mcp", headers=headers) as response:
            answer = await Events(response).next()
        assert answer["id"] == "call"
        assert "not known" in answer["error"]["message"]
        gone = await second.post("/mcp", json=request("tools/list"), headers=session)
        assert gone.status_code == 404, "and so the client begins anew"
        await begin(second)
    assert "Traceback" not in two.text()


async def test_a_gateway_that_stops_does_not_wait_for_the_streams_of_another_s_sessions(
    pair: Pair,
) -> None:
    one, two, _ = pair
    token = one.token()
    async with one.http(token) as first, two.http(token) as second, asyncio.timeout(PATIENCE):
        session = await begin(first)
        headers = {**session, "Accept": "text/event-stream"}
        async with second.stream("GET", "/mcp", headers=headers) as response:
            await ask(second, session, "tools/call", call("raw_grow", name="more"))
            events = Events(response)
            assert (await events.next())["method"].endswith("tools/list_changed")
            os.kill(two.pid, signal.SIGTERM)
            assert await events.next() is None
        assert await asyncio.to_thread(two.stop) == 0
        assert await ask(first, session, "tools/call", call("raw_echo", message="x"))


async def test_calls_go_on_while_redis_is_away_for_a_moment(pair: Pair) -> None:
    one, _, redis = pair
    async with one.http() as http, asyncio.timeout(PATIENCE):
        session = await begin(http)
        redis.stop()
        assert await ask(http, session, "tools/call", call("raw_echo", message="x"))
        await one.until(lambda: "start that Redis" in one.text(), "nobody was told")
        redis.start()
        await one.until(lambda: "answers again" in one.text(), "nobody was told")
        assert await ask(http, session, "tools/call", call("raw_echo", message="x"))


async def test_a_gateway_that_finds_no_redis_says_so_and_ends(fresh: Gateway) -> None:
    fresh.environ["STATE_URL"] = "redis://127.0.0.1:1/0"
    fresh.add_raw("raw")
    with pytest.raises(AssertionError, match="the gateway has ended"):
        fresh.start()
    assert "start that Redis, or set another STATE_URL" in fresh.text()
    assert "Traceback" not in fresh.text()
