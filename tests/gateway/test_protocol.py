"""The whole protocol through the gateway, with the everything-server behind it, twice."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any

import mcp_types as types
import pytest
from mcp import MCPError
from mcp.shared.exceptions import MCPDeprecationWarning

from tests.gateway.harness import (
    PATIENCE,
    PROJECT,
    Gateway,
    Way,
    modern,
    modern_headers,
    open_gateway,
)
from tests.gateway.test_faults import RUDE
from tests.ports import is_free, reserve

pytestmark = pytest.mark.anyio

EVERYTHING = PROJECT / "tests" / "programs" / "everything.py"
STATIC = "test://static-text"
WATCHED = "test://watched-resource"
SECOND = "mcpcp://second/"
MODERN, LEGACY = Way("http", "auto"), Way("http", "legacy")
WAYS = [MODERN, LEGACY, Way("sse", "legacy"), Way("stdio", "legacy")]
"""Each transport once in the era that its clients have; what differs most is between the eras."""

way = pytest.mark.parametrize("way", WAYS, ids=str)
legacy = pytest.mark.parametrize("way", [w for w in WAYS if not w.modern], ids=str)


@contextmanager
def everything_on_port() -> Iterator[int]:
    """The everything-server over HTTP and SSE."""
    with reserve() as port:
        command = [sys.executable, str(EVERYTHING), "--transport", "http", "--port", str(port)]
        process = subprocess.Popen(command, cwd=PROJECT)
        try:
            deadline = time.monotonic() + PATIENCE
            while is_free(port):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield port
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, keys: Any) -> Iterator[Gateway]:
    """The same server twice, so that every name and every URI is claimed by two."""
    with ExitStack() as stack:
        port = stack.enter_context(everything_on_port())
        gateway = stack.enter_context(open_gateway(tmp_path_factory.mktemp("both"), keys))
        url = f"http://127.0.0.1:{port}"
        pipe = {"command": "python", "args": [str(EVERYTHING), "--page", "3"]}
        gateway.servers |= {
            "first": {"url": f"{url}/mcp", "type": "http"},
            "second": {"url": f"{url}/sse", "type": "sse"},
            "old": {"command": "python", "args": [str(RUDE)], "sessions": "per_client"},
            "pipe": {**pipe, "sessions": "per_client", "tools": {"allow": ["test_*"]}},
        }
        gateway.agents |= {
            "prompts": {"allow": {"first": ["prompt:test_simple*"]}},
            "reader": {"allow": {"second": ["resource:test://static-*"]}},
            "caller": {"allow": {"first": ["test_simple_text"]}},
        }
        gateway.start()
        yield gateway


@way
@pytest.mark.parametrize("server", ["first", "second", "pipe"])
async def test_a_long_answer_comes_whole_over_every_transport(
    both: Gateway, server: str, way: Way
) -> None:
    """Only that of the second server is read: its links are written anew."""
    text = '0123456789 lorem ipsum "quoted" \\ \n' * 3000
    async with both.client(way) as client:
        answer = await client.call_tool(f"{server}_test_x_mcp_header", {"query": text})
    assert json.loads(answer.content[0].text) == {"query": text}


async def refused(call: Any) -> Any:
    with pytest.raises(MCPError) as caught:
        await call
    return caught.value.error


# Prompts, resources, completion


@way
async def test_prompts_of_each_server_are_listed_and_got_by_their_prefixed_names(
    both: Gateway, way: Way
) -> None:
    async with both.client(way) as client:
        names = [p.name for p in (await client.list_prompts()).prompts]
        for server in ("first", "second", "pipe"):
            assert f"{server}_test_prompt_with_arguments" in names
            got = await client.get_prompt(
                f"{server}_test_prompt_with_arguments", {"arg1": "x", "arg2": server}
            )
            assert got.messages[0].content.text == (
                f"Prompt with arguments: arg1='x', arg2='{server}'"
            )
        assert "Unknown prompt" in (await refused(client.get_prompt("test_simple_prompt"))).message


@way
async def test_a_uri_that_two_servers_claim_is_exposed_twice_and_read_from_each(
    both: Gateway, way: Way
) -> None:
    async with both.client(way) as client:
        found = [str(r.uri) for r in (await client.list_resources()).resources]
        assert len(found) == len(set(found)) == 13
        for uri in (STATIC, SECOND + STATIC, f"mcpcp://pipe/{STATIC}"):
            assert uri in found
            (contents,) = (await client.read_resource(uri)).contents
            assert str(contents.uri) == uri, "what is read has the name it was asked by"
            assert contents.text == "This is the content of the static text resource."
        templates = [
            t.uri_template for t in (await client.list_resource_templates()).resource_templates
        ]
        assert SECOND + "test://template/{id}/data" in templates
        for start in ("", SECOND):
            read = await client.read_resource(f"{start}test://template/7/data")
            assert '"id": "7"' in read.contents[0].text
            assert str(read.contents[0].uri) == f"{start}test://template/7/data"


@way
async def test_links_in_results_can_be_read_at_the_gateway(both: Gateway, way: Way) -> None:
    async with both.client(way) as client:
        for server, start in (("first", ""), ("second", SECOND)):
            answer = await client.call_tool(f"{server}_test_resource_link", {})
            link = str(answer.content[0].uri)
            assert link == start + STATIC
            assert (await client.read_resource(link)).contents
            prompt = await client.get_prompt(
                f"{server}_test_prompt_with_embedded_resource", {"resourceUri": STATIC}
            )
            assert str(prompt.messages[0].content.resource.uri) == start + STATIC


@way
async def test_completion_goes_to_the_server_of_the_prompt_or_template(
    both: Gateway, way: Way
) -> None:
    async with both.client(way) as client:
        for name in ("first_test_prompt_with_arguments", "second_test_prompt_with_arguments"):
            ref: Any = types.PromptReference(name=name)
            found = await client.complete(ref, {"name": "arg1", "value": "par"})
            assert found.completion.values == ["paris", "park", "party"]
        ref = types.ResourceTemplateReference(uri=SECOND + "test://template/{id}/data")
        found = await client.complete(ref, {"name": "id", "value": "ro"})
        assert found.completion.values == ["rome"]
        for bad in (
            types.PromptReference(name="no"),
            types.ResourceTemplateReference(uri="no://{x}"),
        ):
            await refused(client.complete(bad, {"name": "a", "value": ""}))


@way
async def test_what_a_token_does_not_grant_looks_as_if_it_were_not_there(
    both: Gateway, way: Way
) -> None:
    unknown: dict[str, Any] = {}
    async with both.client(way) as client:
        unknown["prompt"] = await refused(client.get_prompt("first_none"))
        unknown["resource"] = await refused(client.read_resource("test://none"))
        unknown["tool"] = await refused(client.call_tool("first_none", {}))

    def same(error: Any, kind: str, name: str) -> None:
        like = unknown[kind]
        assert (error.code, error.message) == (
            like.code,
            like.message.replace("first_none", name).replace("test://none", name),
        )

    async with both.client(way, "prompts") as client:
        assert [p.name for p in (await client.list_prompts()).prompts] == [
            "first_test_simple_prompt"
        ]
        assert (await client.get_prompt("first_test_simple_prompt")).messages
        assert (await client.list_tools()).tools == []
        assert (await client.list_resources()).resources == []
        name = "first_test_prompt_with_image"
        same(await refused(client.get_prompt(name)), "prompt", name)
        same(await refused(client.read_resource(STATIC)), "resource", STATIC)
    async with both.client(way, "reader") as client:
        listed = [str(r.uri) for r in (await client.list_resources()).resources]
        assert listed == [SECOND + "test://static-text", SECOND + "test://static-binary"]
        assert (await client.list_resource_templates()).resource_templates == []
        assert (await client.read_resource(SECOND + STATIC)).contents
        for uri in (SECOND + WATCHED, WATCHED, SECOND + "test://template/1/data"):
            same(await refused(client.read_resource(uri)), "resource", uri)
    async with both.client(way, "caller") as client:
        assert (await client.list_prompts()).prompts == []
        same(await refused(client.read_resource(STATIC)), "resource", STATIC)
    outcomes = {line["outcome"] for line in both.audit() if line["method"] != "tools/call"}
    assert {"denied", "unknown", "ok"} <= outcomes


# From the server back to the client


class Answering:
    """What a client of the SDK needs to answer every question; `asked` is what came."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def sample(self, context: Any, params: Any) -> types.CreateMessageResult:
        self.asked.append("sampling")
        text = types.TextContent(text=f"about {params.messages[0].content.text}")
        return types.CreateMessageResult(role="assistant", content=text, model="m")

    async def elicit(self, context: Any, params: Any) -> types.ElicitResult:
        self.asked.append("elicitation")
        if isinstance(params, types.ElicitRequestURLParams):
            return types.ElicitResult(action="accept")
        names = params.requested_schema["properties"]
        content: Any = {n: True if p["type"] == "boolean" else n.upper() for n, p in names.items()}
        return types.ElicitResult(action="accept", content=content)

    async def roots(self, context: Any) -> types.ListRootsResult:
        self.asked.append("roots")
        return types.ListRootsResult(roots=[types.Root.model_validate({"uri": "file:///home"})])

    @property
    def callbacks(self) -> dict[str, Any]:
        return {
            "sampling_callback": self.sample,
            "elicitation_callback": self.elicit,
            "list_roots_callback": self.roots,
        }


ASKING = {
    "test_sampling": ({"prompt": "cats"}, "LLM response: about cats"),
    "test_elicitation": ({"message": "who?"}, "action=accept"),
    "test_elicitation_url": ({"url": "http://127.0.0.1/x"}, "action=accept"),
    "test_list_roots": ({}, "file:///home"),
}


@pytest.mark.parametrize(
    ("server", "way"),
    [(s, w) for s in ("first", "second", "pipe") for w in WAYS if not w.modern],
)
async def test_a_server_s_questions_in_mid_call_reach_the_client_and_its_answers_the_server(
    both: Gateway, way: Way, server: str
) -> None:
    """Over every transport on both sides; in the modern era no server asks in mid-call."""
    one = Answering()
    async with both.client(way, **one.callbacks) as client, asyncio.timeout(PATIENCE):
        for tool, (arguments, expected) in ASKING.items():
            answer = await client.call_tool(f"{server}_{tool}", arguments)
            assert expected in answer.content[0].text, tool
    assert one.asked == ["sampling", "elicitation", "elicitation", "roots"]


@legacy
async def test_two_clients_are_each_asked_their_own_server_s_questions(
    both: Gateway, way: Way
) -> None:
    async with (
        asyncio.timeout(PATIENCE),
        both.client(way, **(one := Answering()).callbacks) as first,
        both.client(way, **(two := Answering()).callbacks) as second,
        asyncio.TaskGroup() as tasks,
    ):
        calls = {
            text: tasks.create_task(client.call_tool(f"{server}_test_sampling", {"prompt": text}))
            for client, server, text in (
                (first, "first", "a"),
                (second, "first", "b"),
                (second, "pipe", "c"),
            )
        }
    for text, task in calls.items():
        assert task.result().content[0].text == f"LLM response: about {text}"
    assert (len(one.asked), len(two.asked)) == (1, 2)


async def test_a_client_that_can_answer_nothing_is_not_asked(both: Gateway) -> None:
    for one in (MODERN, LEGACY):
        async with both.client(one) as client, asyncio.timeout(PATIENCE):
            with pytest.raises(MCPError):
                answer = await client.call_tool("second_test_sampling", {"prompt": "x"})
                assert answer.is_error
                raise MCPError(-1, "an error result will do as well")


# Resources that change


@asynccontextmanager
async def watching(
    gateway: Gateway, way: Way, uri: str
) -> AsyncIterator[tuple[Any, asyncio.Queue[str]]]:
    """A client that hears of updates of `uri`, in the manner of its era."""
    updates: asyncio.Queue[str] = asyncio.Queue()

    async def heard(message: Any) -> None:
        if getattr(message, "method", "") == "notifications/resources/updated":
            updates.put_nowait(str(message.params.uri))

    async with gateway.client(way, message_handler=heard) as client:
        if not way.modern:
            with warnings.catch_warnings(action="ignore", category=MCPDeprecationWarning):
                await client.subscribe_resource(uri)
            yield client, updates
            return
        async with client.listen(resource_subscriptions=[uri]) as events:

            async def follow() -> None:
                async for event in events:
                    updates.put_nowait(str(event.uri))

            async with asyncio.TaskGroup() as tasks:
                following = tasks.create_task(follow())
                yield client, updates
                following.cancel()


@way
@pytest.mark.parametrize(("server", "start"), [("first", ""), ("second", SECOND)])
async def test_an_update_reaches_who_subscribed_under_the_uri_that_it_knows(
    both: Gateway, way: Way, server: str, start: str
) -> None:
    async with watching(both, way, start + WATCHED) as (client, updates), asyncio.timeout(PATIENCE):
        for _ in range(2):
            while updates.empty():  # a modern subscription is told to the server in its own time
                tool = f"{server}_test_trigger_resource_update"
                await client.call_tool(tool, {"uri": WATCHED})
                await asyncio.sleep(0.05)
            assert await updates.get() == start + WATCHED
        while not updates.empty():
            assert updates.get_nowait() == start + WATCHED


# Eras that have nothing in common


ROUNDS = {
    "elicitation": "Hello, NAME!",
    "sampling": "about What is the capital",
    "list_roots": "file:///home",
    "request_state": "state-ok",
    "multiple_inputs": "NAME has 1 roots",
    "multi_round": "NAME likes COLOR",
}


async def test_a_modern_server_s_rounds_pass_to_a_modern_client(both: Gateway) -> None:
    async with both.client(MODERN, **Answering().callbacks) as client, asyncio.timeout(PATIENCE):
        for name, expected in ROUNDS.items():
            answer = await client.call_tool(f"first_test_input_required_result_{name}", {})
            assert expected in answer.content[0].text


async def raw(gateway: Gateway, params: dict[str, Any], agent: str = "tester") -> Any:
    """One modern call, without the SDK."""
    capabilities: dict[str, Any] = {"io.modelcontextprotocol/clientCapabilities": {"sampling": {}}}
    body = modern("tools/call", {**params, "_meta": capabilities})
    async with gateway.http(gateway.token(agent)) as http:
        return (await http.post("/mcp", json=body, headers=modern_headers(body))).json()


async def test_a_parked_call_is_its_agent_s_own(both: Gateway) -> None:
    both.agents["twin"] = {"allow": {"*": ["*"]}}
    params = {"name": "old_ask", "arguments": {}}
    first = await raw(both, params)
    assert "result" in first, first
    result = first["result"]
    assert result["resultType"] == "input_required"
    ((key, question),) = result["inputRequests"].items()
    assert question["method"] == "sampling/createMessage"
    content = {"role": "assistant", "model": "m", "content": {"type": "text", "text": "mine"}}
    again = {**params, "inputResponses": {key: content}, "requestState": result["requestState"]}
    stolen = await raw(both, again, "twin")
    assert "call again" in stolen["error"]["message"]
    other = await raw(both, {**again, "name": "old_echo"})
    assert "call again" in other["error"]["message"], "it is good for the tool it was made for"
    answer = await raw(both, again)
    assert "mine" in answer["result"]["content"][0]["text"]
    assert "call again" in (await raw(both, again))["error"]["message"], "and it is good once"
