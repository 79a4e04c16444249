"""What servers ask of a client and tell it in mid-call, and what the client says on the way to its
answer: also where the two have no era in common."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import mcp_types as types
import pytest

from tests.backends.raw import whole
from tests.gateway.harness import (
    PATIENCE,
    Gateway,
    Way,
    call,
    modern,
    modern_headers,
    records,
    request,
)
from tests.gateway.rude_http import rude_http, said
from tests.gateway.test_faults import add_rude, start
from tests.gateway.test_servers_away import failing
from tests.gateway.test_sessions import Events, begin

pytestmark = pytest.mark.anyio


def question(token: Any) -> str:
    """A server's own request for a sample, whose progress it wants to hear of under `token`."""
    params = {"messages": [], "maxTokens": 1, "_meta": {"progressToken": token, "kept": 1}}
    asked = {"id": "q", "method": "sampling/createMessage", "params": params}
    return json.dumps({"jsonrpc": "2.0", **asked})


async def test_progress_of_an_answer_goes_to_the_server_that_asked_though_both_count_from_one(
    fresh: Gateway, tmp_path: Path
) -> None:
    journals = {name: tmp_path / name for name in ("one", "two")}
    for name, journal in journals.items():
        add_rude(fresh, name, sessions="per_client")
        fresh.servers[name]["args"] += ["--journal", str(journal)]
    fresh.start()

    def heard(name: str) -> list[Any]:
        notes = [line for line in records(journals[name]) if "id" not in line]
        return [n["params"] for n in notes if n["method"] == "notifications/progress"]

    async with fresh.http() as http, asyncio.timeout(PATIENCE):
        session = await begin(http)
        lines = [question(1)]
        calls = [
            request("tools/call", call(f"{name}_say", lines=lines, answer=False), name)
            for name in journals
        ]
        async with (
            http.stream("POST", "/mcp", json=calls[0], headers=session) as first,
            http.stream("POST", "/mcp", json=calls[1], headers=session) as second,
        ):
            asked = [await Events(stream).next() for stream in (first, second)]
            tokens = [message["params"]["_meta"]["progressToken"] for message in asked]
            assert len(set(tokens)) == 2, "the client could not tell them apart"
            assert all(message["params"]["_meta"]["kept"] == 1 for message in asked)
            for done, token in enumerate(tokens, 1):
                note = {"method": "notifications/progress", "jsonrpc": "2.0"}
                params = {"progressToken": token, "progress": done}
                await http.post("/mcp", json={**note, "params": params}, headers=session)
            await fresh.until(lambda: heard("one") and heard("two"))
        await http.delete("/mcp", headers=session)
    assert heard("one") == [{"progressToken": 1, "progress": 1}]
    assert heard("two") == [{"progressToken": 1, "progress": 2}]


LOUD = ("warning", "error", "emergency")


@pytest.mark.parametrize(
    ("asked", "heard"), [("warning", LOUD), ("debug", ("debug", *LOUD)), (None, ()), ("x", ())]
)
async def test_a_modern_client_hears_a_legacy_server_s_logs_from_the_level_it_asks_for(
    fresh: Gateway, asked: str | None, heard: tuple[str, ...]
) -> None:
    add_rude(fresh, "rude")
    fresh.start()
    logs = [
        {"method": "notifications/message", "params": {"level": level, "data": level}}
        for level in ("debug", *LOUD, "unheard-of")
    ]
    lines = [json.dumps({"jsonrpc": "2.0", **log}) for log in logs]
    meta = {} if asked is None else {"io.modelcontextprotocol/logLevel": asked}
    body = modern("tools/call", {**call("rude_say", lines=lines), "_meta": meta})
    async with fresh.http() as http, asyncio.timeout(PATIENCE):
        answer = await http.post("/mcp", json=body, headers=modern_headers(body))
    data = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    messages = [json.loads(text) for text in data or [answer.text]]
    levels = [m["params"]["level"] for m in messages if m.get("method")]
    assert levels == list(heard)
    assert messages[-1]["result"]["content"][0]["text"] == "said"


PAGE = {"mode": "url", "message": "sign in", "url": "https://x.example/in", "elicitationId": "e"}


@pytest.mark.parametrize("action", ["accept", "decline"])
async def test_the_pages_that_a_legacy_server_sends_its_user_to_are_a_question_in_the_modern_era(
    fresh: Gateway, action: Any
) -> None:
    async def answer(message: Any, writer: asyncio.StreamWriter) -> None:
        error = {"code": -32042, "message": "sign in first", "data": {"elicitations": [PAGE]}}
        refusal = {"jsonrpc": "2.0", "id": message["id"], "error": error}
        first = len(rude.calls) == 1
        writer.write(whole(json.dumps(refusal).encode() if first else said(message, "done")))

    pages: list[str] = []

    async def open_page(context: Any, params: Any) -> types.ElicitResult:
        pages.append(params.url)
        return types.ElicitResult(action=action)

    async with rude_http(answer) as rude:
        await start(fresh, rude)
        way = Way("http", "auto")
        async with (
            asyncio.timeout(PATIENCE),
            fresh.client(way, elicitation_callback=open_page) as client,
        ):
            if action == "accept":
                answered = await client.call_tool("rude_do", {})
                assert answered.content[0].text == "done"
            else:
                assert "page" in str(await failing(client, "rude_do"))
        async with asyncio.timeout(PATIENCE), fresh.client(way) as client:
            rude.calls.clear()
            error = await failing(client, "rude_do")
            assert (error.error.code, str(error)) == (-32042, "sign in first")
        await asyncio.to_thread(fresh.close)
    assert pages == ["https://x.example/in"], "who can open no page is sent to none"
