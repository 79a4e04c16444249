"""A gateway behind another one, over the transport of 2024-11-05: nothing is lost in the fold."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import MCPError

from tests.gateway.harness import Gateway, Way, call, modern, modern_headers, open_gateway
from tests.gateway.test_cancellation import Waiting
from tests.gateway.test_protocol import (
    ASKING,
    EVERYTHING,
    ROUNDS,
    WATCHED,
    Answering,
    watching,
)

pytestmark = pytest.mark.anyio

MODERN, LEGACY = Way("http", "auto"), Way("http", "legacy")
WAYS = [MODERN, LEGACY, Way("sse", "legacy")]
way = pytest.mark.parametrize("way", WAYS, ids=str)
AT_MOST = 60.0
"""Seconds for a conversation: a machine that does much else is slow."""

Stack = tuple[Gateway, Gateway]


@contextmanager
def open_stack(folder: Path, keys: Path) -> Iterator[Stack]:
    """The gateway that clients see, and the one behind it, which has the servers."""
    with ExitStack() as opened:
        made = []
        for name in ("outer", "inner"):
            (folder / name).mkdir()
            made.append(opened.enter_context(open_gateway(folder / name, keys)))
        outer, inner = made
        inner.add_raw("raw")
        everything = {"command": "python", "args": [str(EVERYTHING)], "sessions": "per_client"}
        inner.servers["all"] = everything
        inner.start()
        outer.servers["in"] = {
            "url": inner.url("/sse"),
            "headers": {"Authorization": f"Bearer {inner.token()}"},
        }
        outer.start()
        yield outer, inner


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Stack]:
    """For tests that leave it as it was."""
    with open_stack(tmp_path_factory.mktemp("stack"), keys) as made:
        yield made


@pytest.fixture
def own_stack(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Stack]:
    """For a test that does not."""
    with open_stack(tmp_path_factory.mktemp("own"), keys) as made:
        yield made


async def names(client: Any) -> set[str]:
    return {tool.name for tool in (await client.list_tools()).tools}


@way
async def test_tools_answers_errors_and_long_texts_pass(stack: Stack, way: Way) -> None:
    outer, _ = stack
    async with outer.client(way) as client, asyncio.timeout(AT_MOST):
        assert {"in_raw_echo", "in_all_test_simple_text"} <= await names(client)
        text = "ä\n" * 50_000
        answer = await client.call_tool("in_raw_echo", {"message": text})
        assert answer.content[0].text == text
        assert (await client.call_tool("in_raw_fail", {})).is_error
        with pytest.raises(MCPError, match="Method not found"):
            await client.call_tool("in_raw_refuse", {})
        with pytest.raises(MCPError, match="Unknown tool"):
            await client.call_tool("in_raw_nothing", {})


async def test_what_nobody_knows_passes_and_one_id_is_in_both_records(stack: Stack) -> None:
    outer, inner = stack
    body = modern("tools/call", call("in_raw_seen", x={"deep": [1, None]}))
    headers = {**modern_headers(body), "X-Request-Id": "from-the-client"}
    async with outer.http() as http, asyncio.timeout(AT_MOST):
        result = (await http.post("/mcp", json=body, headers=headers)).json()["result"]
    assert result["xUnknown"] == {"kept": [1, None]}
    seen = result["structuredContent"]
    assert (seen["name"], seen["arguments"]) == ("seen", {"x": {"deep": [1, None]}})
    assert seen["_meta"]["mcpcp/agent"] == "tester"
    for gateway in stack:
        assert gateway.audit()[-1]["request_id"] == "from-the-client"
    assert [g.audit()[-1]["tool"] for g in (outer, inner)] == ["raw_seen", "seen"]


@way
async def test_many_calls_at_once_each_get_their_own_answer(stack: Stack, way: Way) -> None:
    outer, _ = stack
    async with outer.client(way) as client, asyncio.timeout(AT_MOST):
        async with asyncio.TaskGroup() as tasks:
            calls = [
                tasks.create_task(client.call_tool("in_raw_echo", {"message": str(number)}))
                for number in range(100)
            ]
        assert [c.result().content[0].text for c in calls] == [str(n) for n in range(100)]


@way
async def test_progress_comes_in_order(stack: Stack, way: Way) -> None:
    outer, _ = stack
    told: list[float] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        told.append(progress)

    async with outer.client(way) as client, asyncio.timeout(AT_MOST):
        answer = await client.call_tool(
            "in_raw_progress", {"steps": 20}, progress_callback=on_progress
        )
        assert answer.content[0].text == "all steps"
        await outer.until(lambda: len(told) == 20, f"not all of the progress came: {told}")
    assert told == list(range(20))


@way
async def test_a_cancelled_call_is_ended_at_the_server(
    stack: Stack, way: Way, tmp_path: Path
) -> None:
    outer, _ = stack
    waiting = Waiting(tmp_path)
    async with outer.client(way) as client, asyncio.timeout(AT_MOST):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call_tool, "in_raw_wait", waiting.params["arguments"])
            await waiting.begun(outer)
            tasks.cancel_scope.cancel()
        await waiting.cancelled(outer)
        assert (await client.call_tool("in_raw_echo", {"message": "on"})).content[0].text == "on"


@pytest.mark.parametrize("way", [w for w in WAYS if not w.modern], ids=str)
async def test_a_server_s_questions_in_mid_call_reach_the_client(stack: Stack, way: Way) -> None:
    outer, _ = stack
    one = Answering()
    async with outer.client(way, **one.callbacks) as client, asyncio.timeout(AT_MOST):
        for tool, (arguments, expected) in ASKING.items():
            answer = await client.call_tool(f"in_all_{tool}", arguments)
            assert expected in answer.content[0].text, tool
    assert one.asked == ["sampling", "elicitation", "elicitation", "roots"]


async def test_a_server_s_rounds_reach_a_modern_client(stack: Stack) -> None:
    """Two gateways speak the modern era over the old transport, too."""
    outer, _ = stack
    async with outer.client(MODERN, **Answering().callbacks) as client, asyncio.timeout(AT_MOST):
        for tool, expected in ROUNDS.items():
            answer = await client.call_tool(f"in_all_test_input_required_result_{tool}", {})
            assert expected in answer.content[0].text, tool


@way
async def test_a_list_that_changes_at_the_server_changes_in_front(stack: Stack, way: Way) -> None:
    outer, _ = stack
    async with outer.client(way) as client, asyncio.timeout(AT_MOST):
        before = await names(client)
        grown = f"grown_{way.transport}_{way.modern}"
        await client.call_tool("in_raw_grow", {"name": grown})
        while (now := await names(client)) == before:  # noqa: ASYNC110  (the list is what is asked)
            await asyncio.sleep(0.05)
        assert now - before == {f"in_raw_{grown}"}
        answer = await client.call_tool(f"in_raw_{grown}", {"message": "new"})
        assert answer.content[0].text == "new"


@way
async def test_an_update_reaches_who_subscribed(stack: Stack, way: Way) -> None:
    outer, _ = stack
    async with watching(outer, way, WATCHED) as (client, updates), asyncio.timeout(AT_MOST):
        while updates.empty():
            await client.call_tool("in_all_test_trigger_resource_update", {"uri": WATCHED})
            await asyncio.sleep(0.05)
        assert await updates.get() == WATCHED


@way
async def test_prompts_and_resources_pass(stack: Stack, way: Way) -> None:
    outer, _ = stack
    async with outer.client(way) as client, asyncio.timeout(AT_MOST):
        prompts = {prompt.name for prompt in (await client.list_prompts()).prompts}
        assert "in_all_test_simple_prompt" in prompts
        assert (await client.get_prompt("in_all_test_simple_prompt")).messages
        read = await client.read_resource("test://static-text")
        assert read.contents[0].text


@way
async def test_clients_outlive_the_inner_gateway(
    own_stack: Stack, way: Way, tmp_path: Path
) -> None:
    outer, inner = own_stack
    waiting = Waiting(tmp_path)
    async with outer.client(way) as client, asyncio.timeout(2 * AT_MOST):
        async with asyncio.TaskGroup() as tasks:
            lost = tasks.create_task(failing(client, "in_raw_wait", waiting.params["arguments"]))
            await waiting.begun(outer)
            await asyncio.to_thread(inner.stop, signal.SIGKILL)
        assert "went away" in lost.result()
        await asyncio.to_thread(inner.start)
        while True:  # a call waits for a while, and where the machine is slow fails with a reason
            try:
                answer = await client.call_tool("in_raw_echo", {"message": "again"})
            except MCPError as error:
                assert "not available" in str(error) or "whether it took effect" in str(error)
            else:
                break
        assert answer.content[0].text == "again"


async def failing(client: Any, tool: str, arguments: Any) -> str:
    with pytest.raises(MCPError) as caught:
        await client.call_tool(tool, arguments)
    return str(caught.value)


async def test_a_token_that_the_inner_gateway_refuses_is_told_in_the_log(
    stack: Stack, tmp_path: Path, keys: Path
) -> None:
    _, inner = stack
    folder = tmp_path / "third"
    folder.mkdir()
    with open_gateway(folder, keys) as third:
        third.settings["first_list_wait"] = "1s"
        third.servers["in"] = {
            "url": inner.url("/sse"),
            "headers": {"Authorization": "Bearer no.good.token"},
        }
        await asyncio.to_thread(third.start)
        async with third.client(LEGACY) as client, asyncio.timeout(AT_MOST):
            assert await names(client) == set()
        assert third.get("/health")[0] == 200
        status = await asyncio.to_thread(third.metrics)
        assert 'mcpcp_backend_up{server="in"} 0.0' in status
