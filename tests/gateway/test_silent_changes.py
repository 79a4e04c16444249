"""Lists that change without a word: who asks a server itself sees that, and so does our client."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.gateway.harness import PATIENCE, Gateway, Way, call, request
from tests.gateway.test_sessions import Events, ask, begin

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("era", ["--modern", None])
async def test_a_tool_that_came_without_a_word_is_seen_by_who_lists_again(
    fresh: Gateway, era: str | None
) -> None:
    fresh.add_raw("raw", "--silent", *([era] if era else []))
    fresh.start()
    async with fresh.client(Way("http", "auto")) as client, asyncio.timeout(PATIENCE):
        await client.call_tool("raw_grow", {"name": "late"})
        while "raw_late" not in [t.name for t in (await client.list_tools()).tools]:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_who_has_listed_is_told_of_what_was_found(fresh: Gateway) -> None:
    fresh.add_raw("raw", "--silent")
    fresh.start()
    async with fresh.http() as http, asyncio.timeout(PATIENCE):
        session = await begin(http)
        headers = {**session, "Accept": "text/event-stream"}
        async with http.stream("GET", "/mcp", headers=headers) as stream:
            await ask(http, session, "tools/list", {})
            await ask(http, session, "tools/call", call("raw_grow", name="late"))
            heard = asyncio.create_task(Events(stream).next())
            while not heard.done():
                await http.post("/mcp", json=request("tools/list"), headers=session)
                await asyncio.sleep(0.1)
            assert (await heard)["method"] == "notifications/tools/list_changed"


async def test_a_server_that_does_not_list_again_keeps_its_calls_and_its_tools(
    fresh: Gateway, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    fresh.add_raw("raw", "--silent", "--journal", str(journal))
    fresh.start()

    def listed() -> int:
        return journal.read_text().split().count("tools/list")

    async with fresh.client(Way("http", "auto")) as client, asyncio.timeout(PATIENCE):
        before = listed()
        pid = (await client.call_tool("raw_pid", {})).content[0].text
        tools = [t.name for t in (await client.list_tools()).tools]
        await client.call_tool("raw_sulk", {})
        while listed() < before + 2:
            assert [t.name for t in (await client.list_tools()).tools] == tools
            await asyncio.sleep(0.1)
        assert (await client.call_tool("raw_pid", {})).content[0].text == pid
        assert [t.name for t in (await client.list_tools()).tools] == tools
