"""Links to resources that are on no list: they are read from the server that gave them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from mcp import MCPError

from tests.gateway.harness import PATIENCE, Gateway, Way, open_gateway
from tests.gateway.test_faults import add_rude

pytestmark = pytest.mark.anyio

way = pytest.mark.parametrize("way", [Way("http", "auto"), Way("http", "legacy")], ids=str)
NAMES = ("one", "two")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Gateway]:
    """Two servers with resources."""
    with ExitStack() as stack:
        gateway = stack.enter_context(open_gateway(tmp_path_factory.mktemp("pair"), keys))
        for name in NAMES:
            add_rude(gateway, name)
        gateway.agents |= {
            "half": {"allow": {"one": ["*"]}},
            "strict": {"allow": {name: ["say", "resource:rude://o*"] for name in NAMES}},
        }
        gateway.start()
        yield gateway


async def linked(client: Any, server: str, uri: str, kind: str = "resource_link") -> str:
    """The URI of a link to `uri` that a tool of the server gives, whose templates are known."""
    await client.list_resource_templates()
    link = {"type": kind, "uri": uri, "name": "n"}
    answer = json.dumps({"jsonrpc": "2.0", "id": 0, "result": {"content": [link]}})
    lines = [answer.replace('"id": 0', '"id": $ID')]
    answered = await client.call_tool(f"{server}_say", {"lines": lines, "answer": False})
    return str(answered.content[0].uri)


@way
async def test_a_link_to_what_is_on_no_list_is_read_from_who_gave_it(
    pair: Gateway, way: Way
) -> None:
    async with pair.client(way) as client, asyncio.timeout(PATIENCE):
        for name in NAMES:
            link = await linked(client, name, "rude://hidden/1")
            (contents,) = (await client.read_resource(link)).contents
            assert (contents.text, str(contents.uri)) == (f"of {name}", link)
        with pytest.raises(MCPError, match="Unknown resource"):
            await client.read_resource("rude://hidden/1")


@way
async def test_links_to_what_is_listed_and_to_the_web_stay_as_they_are(
    pair: Gateway, way: Way
) -> None:
    async with pair.client(way) as client, asyncio.timeout(PATIENCE):
        for uri in ("rude://one", "https://example.com/page", "http://example.com", "data:,x"):
            assert await linked(client, "one", uri) == uri
        assert await linked(client, "two", "rude://one") == "rude://one", "it may mean that one"


async def test_a_link_grants_nothing(pair: Gateway) -> None:
    way = Way("http", "auto")
    async with pair.client(way, "strict") as client, asyncio.timeout(PATIENCE):
        with pytest.raises(MCPError, match="Unknown resource"):
            await client.read_resource(await linked(client, "two", "rude://hidden/1"))
        assert (await client.read_resource(await linked(client, "two", "rude://o1"))).contents
    async with pair.client(way, "half") as client, asyncio.timeout(PATIENCE):
        assert (await client.read_resource("rude://hidden/1")).contents[0].text == "of one"
        assert (await client.read_resource("mcpcp://one/rude://hidden/1")).contents
