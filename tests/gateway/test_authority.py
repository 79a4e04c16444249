"""Who may do what, on sessions that are open too; and the record of it."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import anyio
import httpx2
import pytest
from mcp import MCPError

from mcpcp.config import load
from mcpcp.state import FileRevocations
from mcpcp.tokens import LEEWAY, read_claims
from tests.gateway.harness import (
    PATIENCE,
    WAYS,
    Gateway,
    Way,
    call,
    modern,
    modern_headers,
    request,
)
from tests.gateway.test_http_protocol import initialize

pytestmark = pytest.mark.anyio

way = pytest.mark.parametrize("way", WAYS, ids=str)


def revoke(gateway: Gateway, token: str) -> None:
    """As `mcpcp token revoke` does, from another process's point of view."""
    claims = read_claims(token)
    revocations = FileRevocations(load(gateway.config, gateway.environ).revocations_dir)
    revocations.revoke(claims["jti"], claims["exp"])


async def works(client: Any) -> bool:
    """Whether a call is still served; whatever it is refused with, it is an error at once."""
    async with asyncio.timeout(PATIENCE):
        try:
            await client.call_tool("raw_echo", {"message": "?"})
        except (MCPError, httpx2.HTTPError):
            return False
    return True


@way
async def test_a_revoked_token_is_refused_on_an_open_session_within_a_second(
    gateway: Gateway, way: Way
) -> None:
    token = gateway.token()
    async with gateway.client(way, token=token) as client:
        assert await works(client)
        revoke(gateway, token)
        revoked = asked = time.monotonic()
        while await works(client):
            assert asked < revoked + 1, "a call that was made a second later was served"
            await asyncio.sleep(0.02)
            asked = time.monotonic()
    async with gateway.client(Way("http", "auto")) as client:
        assert await works(client), "other tokens of the agent are not touched"


@way
async def test_a_token_that_expires_ends_what_an_open_session_may_do(
    gateway: Gateway, way: Way
) -> None:
    """Signed long ago: within its leeway it is accepted for a few seconds more."""
    lives = 2.0
    while not await ended_in_time(gateway, way, lives):
        lives *= 3  # a busy machine takes longer to open a session
        assert lives < PATIENCE


async def ended_in_time(gateway: Gateway, way: Way, lives: float) -> bool:
    """Open a session with a token that ends in `lives` seconds, and see it end with the token;
    False where there was no session yet by then."""
    now = time.time() + lives - LEEWAY - 60
    token = gateway.token_for("tester", {"*": ["*"]}, ttl=60, now=now)
    end = read_claims(token)["exp"] + LEEWAY
    opened = False
    try:
        async with gateway.client(way, token=token) as client:
            asked = time.time()
            while await works(client):
                assert asked < end, "a call that was made after the end was served"
                opened = True
                await asyncio.sleep(0.05)
                asked = time.time()
    except* (MCPError, httpx2.HTTPError, anyio.BrokenResourceError, anyio.ClosedResourceError):
        assert not opened
    assert time.time() >= end, "it was refused before its end"
    return opened


async def test_an_expired_token_is_told_so_with_401(gateway: Gateway) -> None:
    token = gateway.token_for("tester", {"*": ["*"]}, ttl=60, now=time.time() - 3600)
    async with gateway.http(token) as http:
        answer = await http.post("/mcp", json=request("ping"))
    assert answer.status_code == 401
    assert "expired" in answer.json()["error"]["message"]


async def test_a_new_token_takes_an_open_session_over_the_end_of_the_old_one(
    gateway: Gateway,
) -> None:
    old, new = gateway.token(), gateway.token()
    async with gateway.http(old) as http:
        session = await initialize(http)
    revoke(gateway, old)
    async with gateway.http(new) as http:
        answer = await http.post("/mcp", json=request("tools/list"), headers=session)
        assert answer.status_code == 200


# Denied and unknown


async def both(gateway: Gateway, post: Any) -> tuple[bytes, bytes]:
    """The answers to a tool that exists but is denied, and to one that does not exist."""
    answers = [await post(name) for name in ("o_seen", "o_nope")]
    return answers[0], answers[1].replace(b"o_nope", b"o_seen")


async def test_denied_and_unknown_are_the_same_answer_byte_for_byte(gateway: Gateway) -> None:
    token = gateway.token("echo_only")

    async def modern_post(name: str) -> bytes:
        body = modern("tools/call", call(name))
        async with gateway.http(token) as http:
            answer = await http.post("/mcp", json=body, headers=modern_headers(body))
        length = int(answer.headers["content-length"])
        own = ("content-length", "x-request-id")  # each request has an id of its own
        head = sorted((k, v) for k, v in answer.headers.items() if k not in own)
        return b"%d %r %d %s" % (answer.status_code, head, length, answer.content)

    async def legacy_post(name: str) -> bytes:
        async with gateway.http(token) as http:
            session = await initialize(http)
            answer = await http.post(
                "/mcp", json=request("tools/call", call(name)), headers=session
            )
        return b"%d %s" % (answer.status_code, answer.content)

    for post in (modern_post, legacy_post):
        denied, unknown = await both(gateway, post)
        assert denied == unknown


async def test_the_audit_tells_denied_from_unknown_and_names_agent_token_and_session(
    gateway: Gateway,
) -> None:
    before = len(gateway.audit())
    token = gateway.token("echo_only")
    async with gateway.http(token) as http:
        session = await initialize(http)
        for name in ("raw_echo", "o_seen", "o_nope", "x" * 5000):
            body = request("tools/call", call(name, message="a secret of the caller"))
            await http.post("/mcp", json=body, headers=session)
    records = gateway.audit()[before:]
    told = [(r["server"], r["tool"], r["outcome"]) for r in records]
    assert told[:3] == [
        ("raw", "echo", "ok"),
        ("other", "seen", "denied"),
        ("", "o_nope", "unknown"),
    ]
    assert len(records[3]["tool"]) < 200
    assert {r["agent"] for r in records} == {"echo_only"}
    assert {r["token_id"] for r in records} == {read_claims(token)["jti"]}
    assert {r["session"] for r in records} == {session["Mcp-Session-Id"]}
    assert "a secret of the caller" not in json.dumps(records)
    assert token not in json.dumps(records)


async def test_a_record_is_in_the_file_before_its_answer_leaves(gateway: Gateway) -> None:
    body = modern("tools/call", call("raw_echo", message="hi"))
    async with gateway.http() as http:
        for _ in range(20):
            before = len(gateway.audit())
            await http.post("/mcp", json=body, headers=modern_headers(body))
            assert len(gateway.audit()) == before + 1


# Without a token


async def test_the_anonymous_agent_may_do_what_the_config_says_and_no_more(fresh: Gateway) -> None:
    fresh.add_raw("raw")
    fresh.agents["guest"] = {"allow": {"raw": ["echo"]}}
    fresh.settings["anonymous"] = "guest"
    fresh.start()
    body = modern("tools/list")
    async with httpx2.AsyncClient() as http:
        answer = await http.post(fresh.url(), json=body, headers=modern_headers(body))
        assert [t["name"] for t in answer.json()["result"]["tools"]] == ["raw_echo"]
        bad = {"Authorization": "Bearer nonsense", **modern_headers(body)}
        assert (await http.post(fresh.url(), json=body, headers=bad)).status_code == 401
    async with fresh.client(Way("http", "legacy")) as client:
        assert len((await client.list_tools()).tools) > 1
    async with httpx2.AsyncClient() as http:
        denied = modern("tools/call", call("raw_pid"))
        await http.post(fresh.url(), json=denied, headers=modern_headers(denied))
    assert (fresh.audit()[-1]["agent"], fresh.audit()[-1]["outcome"]) == ("guest", "denied")


async def test_an_agent_s_list_is_in_its_token_not_in_the_config(gateway: Gateway) -> None:
    """Whoever could edit the config's agents would still need the signing key."""
    token = gateway.token_for("somebody_new", {"raw": ["echo", "pid"]})
    async with gateway.client(Way("http", "auto"), token=token) as client:
        found = [tool.name for tool in (await client.list_tools()).tools]
    assert found == ["raw_echo", "raw_pid"]


async def test_one_agent_s_list_never_shows_in_another_s_however_they_mix(gateway: Gateway) -> None:
    expected = {"tester": 29, "other_only": 14, "echo_only": 1, "nothing": 0}
    tokens = {agent: gateway.token(agent) for agent in expected}

    async def ask(agent: str) -> None:
        body = modern("tools/list")
        async with gateway.http(tokens[agent]) as http:
            for _ in range(10):
                answer = await http.post("/mcp", json=body, headers=modern_headers(body))
                assert len(answer.json()["result"]["tools"]) == expected[agent]

    async with asyncio.TaskGroup() as tasks:
        for agent in [*expected] * 5:
            tasks.create_task(ask(agent))


async def test_a_method_that_we_do_not_know_needs_all_of_the_one_server(fresh: Gateway) -> None:
    fresh.add_raw("raw")
    fresh.agents["echo_only"] = {"allow": {"raw": ["echo"]}}
    fresh.start()
    for agent, reached in (("echo_only", []), ("tester", ["x/unknown"])):
        before = len(fresh.audit())
        async with fresh.http(fresh.token(agent)) as http:
            session = await initialize(http)
            await http.post("/mcp", json=request("x/unknown"), headers=session)
        assert [r["method"] for r in fresh.audit()[before:]] == reached
