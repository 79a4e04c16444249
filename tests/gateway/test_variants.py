"""Lists that depend on the client: what a server shows only to those that can be asked, and what is
listed only once somebody wants it."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from pathlib import Path
from typing import Any

import mcp_types as types
import psutil
import pytest

from tests.gateway.harness import PATIENCE, Gateway, Way, call, request
from tests.gateway.test_http_protocol import initialize
from tests.gateway.test_servers_away import failing

pytestmark = pytest.mark.anyio

WAYS = [Way("http", "legacy"), Way("http", "auto"), Way("sse", "legacy")]


async def elicit(context: Any, params: Any) -> types.ElicitResult:
    return types.ElicitResult(action="decline")


async def names(client: Any) -> set[str]:
    return {tool.name for tool in (await client.list_tools()).tools}


def add_shy(gateway: Gateway, era: str) -> None:
    if era == "modern":
        gateway.add_raw("raw", "--shy", "--modern")
    else:
        gateway.add_raw("raw", "--shy", sessions="per_client")


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_a_tool_for_clients_that_can_be_asked_is_on_their_list_and_on_no_other(
    fresh: Gateway, era: str, way: Way
) -> None:
    add_shy(fresh, era)
    fresh.start()
    async with fresh.client(way) as plain, fresh.client(way, elicitation_callback=elicit) as able:
        before = await names(plain)
        assert await names(able) == before | {"raw_shy"}
        assert await names(plain) == before
        answer = await able.call_tool("raw_shy", {"message": "here"})
        assert answer.content[0].text == "here"
        error = await failing(plain, "raw_shy", message="here")
        assert error.error.message == "Unknown tool: raw_shy"
    outcomes = [c["outcome"] for c in fresh.audit() if c["tool"].endswith("shy")]
    assert outcomes == ["ok", "unknown"]


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_such_a_tool_can_be_called_without_a_list_first(fresh: Gateway, era: str) -> None:
    add_shy(fresh, era)
    fresh.start()
    async with fresh.client(Way("http", "auto"), elicitation_callback=elicit) as able:
        answer = await able.call_tool("raw_shy", {"message": "here"})
    assert answer.content[0].text == "here"


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_such_a_list_follows_the_server_s_changes_and_restarts(
    fresh: Gateway, era: str
) -> None:
    add_shy(fresh, era)
    fresh.start()
    way = Way("http", "legacy")
    async with fresh.client(way, elicitation_callback=elicit) as able, asyncio.timeout(PATIENCE):
        assert "raw_shy" in await names(able)
        await able.call_tool("raw_grow", {"name": "one"})
        while not {"raw_one", "raw_shy"} <= await names(able):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        for process in psutil.Process(fresh.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        while "raw_one" in (found := await names(able)):
            assert "raw_shy" in found
            await asyncio.sleep(0.02)
        answer = await able.call_tool("raw_shy", {"message": "on"})
        assert answer.content[0].text == "on"


async def test_an_agent_that_was_not_granted_such_a_tool_does_not_see_it(fresh: Gateway) -> None:
    add_shy(fresh, "legacy")
    fresh.agents["narrow"] = {"allow": {"raw": ["echo"]}}
    fresh.start()
    way = Way("http", "legacy")
    async with fresh.client(way, "narrow", elicitation_callback=elicit) as able:
        assert await names(able) == {"raw_echo"}
        error = await failing(able, "raw_shy", message="here")
        assert error.error.message == "Unknown tool: raw_shy"


async def test_a_shared_process_offers_no_client_anything_that_it_does_not_offer_all(
    fresh: Gateway,
) -> None:
    fresh.add_raw("raw", "--shy")
    fresh.start()
    async with fresh.client(Way("http", "legacy"), elicitation_callback=elicit) as able:
        found = await names(able)
    assert "raw_echo" in found
    assert "raw_shy" not in found


async def test_a_list_is_no_change_to_the_client_that_asked_for_it(fresh: Gateway) -> None:
    """Two kinds of client are shown two lists, and neither hears of the other's."""
    add_shy(fresh, "legacy")
    fresh.start()
    heard: list[Any] = []

    async def hear(message: Any) -> None:
        heard.append(message)

    way = Way("sse", "legacy")
    async with (
        fresh.client(way, message_handler=hear) as plain,
        fresh.client(way, message_handler=hear, elicitation_callback=elicit) as able,
    ):
        await names(plain)
        assert "raw_shy" in await names(able)
        await names(plain)
        assert not heard
        await able.call_tool("raw_grow", {"name": "one"})
        await fresh.until(lambda: len(heard) >= 2, "both hear of a real change")


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_templates_are_listed_once_somebody_asks_for_them(
    fresh: Gateway, tmp_path: Path, era: str
) -> None:
    journal = tmp_path / "journal"
    flags = ["--modern"] if era == "modern" else []
    fresh.add_raw("raw", "--journal", str(journal), *flags)
    fresh.start()
    method = "resources/templates/list"
    async with fresh.client(Way("sse", "legacy")) as client:
        await client.list_tools()
        await client.list_resources()
        assert "resources/list" in journal.read_text().split()
        assert method not in journal.read_text().split()
        found = (await client.list_resource_templates()).resource_templates
        assert "raw://{name}" in [str(each.uri_template) for each in found]
        assert method in journal.read_text().split()


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_templates_of_several_servers_say_whose_a_uri_is(
    fresh: Gateway, tmp_path: Path, era: str
) -> None:
    journals = {name: tmp_path / name for name in ("raw", "other")}
    for name, journal in journals.items():
        fresh.add_raw(name, "--journal", str(journal), *(["--modern"] * (era == "modern")))
    fresh.start()
    async with fresh.client(Way("sse", "legacy")) as client:
        for name, journal in journals.items():
            asked = partial(_has_asked, journal)
            await fresh.until(asked, f"{name} lists its templates, unasked by the client")
        # a URI that is on no list, of one of two servers
        assert (await client.read_resource("raw://x")).contents[0].text == "read"


def _has_asked(journal: Path) -> bool:
    return journal.exists() and "resources/templates/list" in journal.read_text().split()


async def test_forty_clients_that_make_capabilities_up_cost_a_bounded_number_of_lists(
    fresh: Gateway, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    fresh.add_raw("raw", "--modern", "--journal", str(journal))
    fresh.start()
    async with fresh.http() as http, asyncio.timeout(PATIENCE):
        for number in range(40):
            hello = {
                "protocolVersion": "2025-06-18",
                "capabilities": {"experimental": {f"x{number}": {}}},
                "clientInfo": {"name": "t", "version": "1"},
            }
            session = await initialize(http, hello)
            listed = await http.post("/mcp", json=request("tools/list"), headers=session)
            assert "raw_echo" in listed.text
            await http.delete("/mcp", headers=session)
        session = await initialize(http)
        body = request("tools/call", call("raw_echo", message="on"))
        answer = await http.post("/mcp", json=body, headers=session)
    assert '"text":"on"' in answer.text
    # Each is asked for once, on two pages.
    assert journal.read_text().split().count("tools/list") <= 2 * 41
