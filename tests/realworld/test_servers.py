"""Servers that nobody here wrote answer through the gateway as they answer directly."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp_types import (
    CompleteResult,
    CreateMessageResult,
    ElicitResult,
    ListRootsResult,
    PromptReference,
    Root,
    TextContent,
)
from pydantic import FileUrl

from tests.gateway.harness import PATIENCE, Gateway, Way
from tests.ports import reserve
from tests.realworld.answers import answers, outcome, plain, tools
from tests.realworld.conftest import RealWorld
from tests.realworld.servers import SERVERS, Server

pytestmark = [pytest.mark.npm, pytest.mark.anyio, pytest.mark.timeout(1800)]

IN_FRONT = [Way("http", "legacy"), Way("http", "auto")]


def direct(server: Server, **options: Any) -> Client:
    """The SDK's client on a process of its own."""
    command = StdioServerParameters(command=server.command, args=server.args, env=server.env)
    return Client(command, **{"mode": "legacy", **options})


async def settled(client: Any, wanted: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The tools, once they are those wanted: some servers register more of them after the start."""

    found: dict[str, Any] = {}
    try:
        async with asyncio.timeout(PATIENCE):
            while (found := await tools(client, prefix)) != wanted:  # noqa: ASYNC110  (no event)
                await asyncio.sleep(0.1)
    except TimeoutError:
        pass
    return found


@pytest.mark.parametrize("way", IN_FRONT, ids=str)
@pytest.mark.parametrize("name", SERVERS)
async def test_it_lists_and_answers_as_it_does_directly(
    real: RealWorld, name: str, way: Way
) -> None:
    server, prefix = real.servers[name], f"{name}_"
    async with direct(server) as client:
        wanted = await answers(client, server.calls)
        offered = await tools(client)
    async with real.gateway.client(way) as client:
        found = await settled(client, offered, prefix)
        answered = await answers(client, server.calls, prefix)
    assert found == offered
    assert answered == wanted
    assert offered
    assert any("content" in answer for answer in wanted)


# What is not tools


PROMPTS = [
    ("simple-prompt", {}),
    ("args-prompt", {"city": "Paris", "state": "Texas"}),
    ("completable-prompt", {"department": "Engineering", "name": "Alice"}),
    ("args-prompt", {}),
    ("no-such-prompt", {}),
]


async def prompts(client: Any, prefix: str = "") -> dict[str, Any]:
    listed = (await client.list_prompts()).prompts
    ours = [prompt for prompt in listed if prompt.name.startswith(prefix)]
    named = [(prompt.name.removeprefix(prefix), plain(prompt)) for prompt in ours]
    return {name: {**prompt, "name": name} for name, prompt in named}


async def prompt_answers(client: Any, prefix: str = "") -> list[Any]:
    """Without the texts of errors, which name the prompt."""
    found = [await outcome(client.get_prompt(prefix + name, given)) for name, given in PROMPTS]
    return [answer.get("code", answer) for answer in found]


@pytest.mark.parametrize("way", IN_FRONT, ids=str)
async def test_its_prompts_are_the_same(real: RealWorld, way: Way) -> None:
    prefix = "everything_"
    async with direct(real.servers["everything"]) as client:
        wanted = await prompts(client), await prompt_answers(client)
    async with real.gateway.client(way) as client:
        found = await prompts(client, prefix), await prompt_answers(client, prefix)
    assert found == wanted
    assert {"simple-prompt", "args-prompt"} <= wanted[0].keys()


async def resources(client: Any) -> list[Any]:
    """What is listed, and the first one's contents."""
    listed = (await client.list_resources()).resources
    templates = (await client.list_resource_templates()).resource_templates
    documents = [each for each in listed if "static" in str(each.uri)]
    return [
        [plain(each) for each in documents],
        [plain(each) for each in templates if each.uri_template.startswith("demo:")],
        await outcome(client.read_resource(str(documents[0].uri))),
        await outcome(client.read_resource("demo://no/such/resource")),
    ]


@pytest.mark.parametrize("way", IN_FRONT, ids=str)
async def test_its_resources_are_the_same(real: RealWorld, way: Way) -> None:
    async with direct(real.servers["everything"]) as client:
        wanted = await resources(client)
    async with real.gateway.client(way) as client:
        found = await resources(client)
    assert found[:-1] == wanted[:-1]
    assert all(wanted)
    # What no server has, the gateway refuses itself, with either of the eras' codes.
    assert found[-1]["code"] in (-32602, -32002)


@pytest.mark.parametrize("way", IN_FRONT, ids=str)
async def test_it_completes_arguments(real: RealWorld, way: Way) -> None:
    async with real.gateway.client(way) as client:
        reference = PromptReference(name="everything_completable-prompt")
        argument = {"name": "department", "value": "Eng"}
        found: CompleteResult = await client.complete(reference, argument)
    assert found.completion.values == ["Engineering"]


# What it asks of its client


class Person:
    """A client's user, model and folders."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[str] = []

    async def sample(self, context: Any, params: Any) -> CreateMessageResult:
        self.asked.append("sampling")
        text = TextContent(text="forty-two")
        return CreateMessageResult(role="assistant", content=text, model="none")

    async def elicit(self, context: Any, params: Any) -> ElicitResult:
        self.asked.append("elicitation")
        return ElicitResult(action="decline")

    async def roots(self, context: Any) -> ListRootsResult:
        self.asked.append("roots")
        return ListRootsResult(roots=[Root(uri=FileUrl(self.root.as_uri()), name="here")])

    @property
    def options(self) -> dict[str, Any]:
        return {
            "sampling_callback": self.sample,
            "elicitation_callback": self.elicit,
            "list_roots_callback": self.roots,
        }


ASKING = [
    ("trigger-sampling-request", {"prompt": "6 x 7?", "maxTokens": 10}),
    ("trigger-elicitation-request", {}),
    ("get-roots-list", {}),
]
"""It offers them only to clients that can be asked."""


@pytest.mark.parametrize("way", IN_FRONT, ids=str)
async def test_it_asks_the_clients_model_user_and_roots(
    servers: dict[str, Server], fresh: Gateway, tmp_path: Path, way: Way
) -> None:
    """A modern client is asked in rounds, by a server that knows only the legacy era."""
    server = servers["everything"]
    fresh.servers["asking"] = {**server.entry, "sessions": "per_client"}
    fresh.start()
    itself, through = Person(tmp_path), Person(tmp_path)
    async with direct(server, **itself.options) as client:
        offered = await tools(client)
        wanted = await answers(client, ASKING)
    async with fresh.client(way, **through.options) as client:
        seen = await settled(client, offered, "asking_")
        found = await answers(client, ASKING, "asking_")
    assert seen == offered
    assert {name for name, _ in ASKING} <= seen.keys()
    assert found == wanted
    assert set(through.asked) == set(itself.asked)
    assert {"sampling", "elicitation", "roots"} == set(itself.asked)


# The TypeScript SDK's own HTTP


@contextmanager
def over_http(server: Server, transport: str, log: Path) -> Iterator[str]:
    """The URL of the everything-server of npm."""
    path = "/sse" if transport == "sse" else "/mcp"
    with reserve() as port, log.open("wb") as output:
        process = subprocess.Popen(
            [server.command, *server.args, transport],
            env={"PORT": str(port)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        try:
            _wait_for(f"http://127.0.0.1:{port}/", process)
            yield f"http://127.0.0.1:{port}{path}"
        finally:
            process.kill()  # it waits for its clients' streams to end, and we are the client
            process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert process.poll() is None
        with suppress(httpx2.TransportError):
            httpx2.get(url, timeout=PATIENCE)
            return
        time.sleep(0.05)
    raise AssertionError(f"nobody answers at {url}")


@pytest.mark.parametrize("way", IN_FRONT, ids=str)
@pytest.mark.parametrize("transport", ["sse", "streamableHttp"])
async def test_the_typescript_sdks_http_is_understood(
    servers: dict[str, Server], fresh: Gateway, tmp_path: Path, transport: str, way: Way
) -> None:
    server = servers["everything"]
    with over_http(server, transport, tmp_path / "server.log") as url:
        fresh.servers["there"] = {"url": url, "prefix": ""}
        fresh.start()
        async with direct(server) as client:
            wanted = await answers(client, server.calls)
            offered = await tools(client)
        async with fresh.client(way) as client:
            found = await settled(client, offered, "")
            answered = await answers(client, server.calls)
    assert found == offered
    assert answered == wanted
