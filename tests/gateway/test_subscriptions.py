"""Who hears of what changes: while its token is good, of what that grants, whoever else is away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mcpcp import limits
from tests.gateway.harness import (
    PATIENCE,
    Gateway,
    call,
    modern,
    modern_headers,
    open_gateway,
    records,
    request,
)
from tests.gateway.test_authority import revoke
from tests.gateway.test_faults import add_rude
from tests.gateway.test_sessions import Events, ask, begin

pytestmark = pytest.mark.anyio

CHANGED = "notifications/tools/list_changed"
UPDATED = "notifications/resources/updated"


@pytest.fixture(scope="module")
def rude(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Gateway]:
    """A server that all share, and one that each client has to itself; both say what they are told
    to, of `rude://NAME` and of what nobody asked for."""
    with ExitStack() as stack:
        gateway = stack.enter_context(open_gateway(tmp_path_factory.mktemp("rude"), keys))
        for name, sessions in (("shared", "shared"), ("own", "per_client")):
            add_rude(gateway, name, sessions=sessions)
            gateway.servers[name]["args"] += ["--journal", str(gateway.folder / name)]
        gateway.agents["some"] = {
            "allow": {name: ["say", f"resource:rude://{name}"] for name in ("shared", "own")}
        }
        gateway.start()
        yield gateway


def update(uri: str) -> str:
    """What a server says of a resource that has changed."""
    return json.dumps({"jsonrpc": "2.0", "method": UPDATED, "params": {"uri": uri}})


async def say(gateway: Gateway, server: str, *lines: str) -> None:
    """Have a server say those lines, on the connection that clients share."""
    body = modern("tools/call", call(f"{server}_say", lines=lines))
    async with gateway.http() as http:
        answer = await http.post("/mcp", json=body, headers=modern_headers(body))
    assert "said" in answer.text


def told(gateway: Gateway, server: str, method: str) -> int:
    """How often a server was told that."""
    return sum(line.get("method") == method for line in records(gateway.folder / server))


@asynccontextmanager
async def listening(gateway: Gateway, token: str, **wanted: Any) -> AsyncIterator[Events]:
    """A client of the modern era that listens; its stream, after the acknowledgement."""
    body = modern("subscriptions/listen", {"notifications": wanted}, "listener")
    async with (
        gateway.http(token) as http,
        http.stream("POST", "/mcp", json=body, headers=modern_headers(body)) as stream,
    ):
        events = Events(stream)
        assert (await events.next())["method"] == "notifications/subscriptions/acknowledged"
        yield events


@asynccontextmanager
async def following(gateway: Gateway, token: str, uri: str) -> AsyncIterator[Events]:
    """One that listens to a resource of the shared server, which knows of it."""
    before = told(gateway, "shared", "resources/subscribe")
    async with listening(gateway, token, resourceSubscriptions=[uri]) as events:
        await gateway.until(lambda: told(gateway, "shared", "resources/subscribe") > before)
        yield events
    await gateway.until(
        lambda: (
            told(gateway, "shared", "resources/unsubscribe")
            == told(gateway, "shared", "resources/subscribe")
        )
    )


async def test_a_listener_whose_token_was_revoked_hears_of_no_update_and_its_stream_ends(
    rude: Gateway,
) -> None:
    token = rude.token()
    async with asyncio.timeout(PATIENCE), following(rude, token, "rude://shared") as events:
        await say(rude, "shared", update("rude://shared"))
        assert (await events.next())["params"]["uri"] == "rude://shared"
        revoke(rude, token)
        async with rude.http(token) as http:
            while (await http.get("/mcp")).status_code != 401:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        await say(rude, "shared", update("rude://shared"))
        assert await events.next() is None


async def test_updates_of_parts_are_heard_where_they_are_granted(rude: Gateway) -> None:
    part = "rude://shared/part"
    for agent, heard in (("tester", [part, "rude://shared"]), ("some", ["rude://shared"])):
        token = rude.token(agent)
        async with asyncio.timeout(PATIENCE), following(rude, token, "rude://shared") as events:
            await say(rude, "shared", update(part), update("rude://shared"))
            for uri in heard:
                message = await events.next()
                assert message["params"]["uri"] == uri
                meta = message["params"]["_meta"]
                assert meta == {"io.modelcontextprotocol/subscriptionId": "listener"}


@pytest.mark.parametrize("server", ["shared", "own"])
async def test_a_session_hears_of_no_resource_that_its_token_does_not_grant(
    rude: Gateway, server: str
) -> None:
    """Though it subscribed to another, and though the server says it unasked."""
    uri = f"rude://{server}"
    lines = [update(f"{uri}/secret"), update("rude://else"), update(uri)]
    async with rude.http(rude.token("some")) as http, asyncio.timeout(PATIENCE):
        session = await begin(http)
        await ask(http, session, "resources/subscribe", {"uri": uri})
        headers = {**session, "Accept": "text/event-stream"}
        async with http.stream("GET", "/mcp", headers=headers) as stream:
            await ask(http, session, "tools/call", call(f"{server}_say", lines=lines))
            message = await Events(stream).next()
            assert (message["method"], message["params"]["uri"]) == (UPDATED, uri)
        await http.delete("/mcp", headers=session)


async def test_a_server_that_is_away_holds_no_listener_up_and_is_told_once_it_is_back(
    fresh: Gateway, tmp_path: Path
) -> None:
    hold, journal = tmp_path / "hold", tmp_path / "journal"
    hold.touch()
    fresh.add_raw("away", "--hold", str(hold), "--journal", str(journal))
    fresh.add_raw("raw")
    fresh.start()
    hold.unlink()
    fresh.kill_server("away")
    wanted = {"toolsListChanged": True, "resourceSubscriptions": ["raw://thing"]}
    token = fresh.token()
    async with asyncio.timeout(PATIENCE), listening(fresh, token, **wanted) as events:
        grow = modern("tools/call", call("raw_grow", name="more"))
        async with fresh.http(token) as http:
            await http.post("/mcp", json=grow, headers=modern_headers(grow))
        assert (await events.next())["method"] == CHANGED
        assert "resources/subscribe" not in journal.read_text().split()
        hold.touch()
        await fresh.until(lambda: "resources/subscribe" in journal.read_text().split())


async def test_a_resource_that_a_modern_server_does_not_tell_of_costs_nobody_the_lists(
    fresh: Gateway, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    fresh.add_raw("raw", "--modern", "--journal", str(journal))
    fresh.start()

    def asked() -> int:
        return journal.read_text().split().count("subscriptions/listen")

    await fresh.until(lambda: asked() == 1)
    token = fresh.token()
    wanted = {"toolsListChanged": True, "resourceSubscriptions": ["raw://thing"]}
    async with (
        asyncio.timeout(PATIENCE),
        listening(fresh, token, **wanted) as events,
        fresh.http(token) as http,
    ):
        await fresh.until(lambda: asked() == 3, "what is left is not asked for again")
        grow = modern("tools/call", call("raw_grow", name="more"))
        await http.post("/mcp", json=grow, headers=modern_headers(grow))
        assert (await events.next())["method"] == CHANGED


async def test_a_resource_that_is_followed_twice_is_told_of_once(rude: Gateway) -> None:
    """Also where a client asks again before it was answered."""
    async with rude.http() as http, asyncio.timeout(PATIENCE):
        session = await begin(http)
        headers = {**session, "Accept": "text/event-stream"}
        async with http.stream("GET", "/mcp", headers=headers) as stream:
            params = {"uri": "rude://shared"}
            async with asyncio.TaskGroup() as tasks:
                for number in range(5):
                    body = request("resources/subscribe", params, f"subscribe-{number}")
                    tasks.create_task(http.post("/mcp", json=body, headers=session))
            lines = [update("rude://shared"), update("rude://shared/last")]
            await ask(http, session, "tools/call", call("shared_say", lines=lines))
            events = Events(stream)
            heard = [(await events.next())["params"]["uri"] for _ in lines]
            assert heard == ["rude://shared", "rude://shared/last"]
        await http.delete("/mcp", headers=session)


@pytest.mark.parametrize("server", ["shared", "own"])
async def test_who_follows_what_is_on_record_and_held_to_the_token_s_limits(
    rude: Gateway, server: str
) -> None:
    held = limits.of({"calls_per_minute": 1})
    agent = f"held_{server}"
    token = rude.token_for(agent, {"*": ["*"]}, held_to=held)
    body = request("resources/subscribe", {"uri": f"rude://{server}"})
    outcomes: list[str] = []
    async with rude.http(token) as http, asyncio.timeout(PATIENCE):
        session = await begin(http)
        while "refused" not in outcomes:  # on a busy machine a minute may pass meanwhile
            posted = await http.post("/mcp", json=body, headers=session)
            outcomes.append("refused" if "error" in posted.text else "ok")
        limit = posted.json()["error"]["data"]  # which is known at once, and so no stream
        assert limit["rule"] == "calls_per_minute"
        assert 0 < limit["retryAfter"] <= 60
        await http.delete("/mcp", headers=session)
    records_of_it = [line for line in rude.audit() if line["agent"] == agent]
    assert [line["outcome"] for line in records_of_it] == outcomes
    assert {(line["server"], line["method"]) for line in records_of_it} == {
        (server, "resources/subscribe")
    }
    assert outcomes[0] == "ok"


async def test_schemas_of_arguments_are_for_tools_and_hold_up_nothing_that_has_none(
    rude: Gateway,
) -> None:
    held = limits.of({"arguments": {"shared:*": {"required": ["message"]}}})
    token = rude.token_for("held", {"shared": ["*"]}, held_to=held)
    for method, params, expected in (
        ("resources/read", {"uri": "rude://shared"}, '"text":"of shared"'),
        ("tools/call", call("shared_echo", message="fine"), '"text":"fine"'),
        ("tools/call", call("shared_say", lines=[]), '"rule":"arguments","retryAfter":null'),
    ):
        body = modern(method, params)
        named = {"Mcp-Name": str(params.get("name", params.get("uri")))}
        async with rude.http(token) as http:
            answer = await http.post("/mcp", json=body, headers=modern_headers(body) | named)
        assert expected in answer.text
