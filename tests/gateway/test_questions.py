"""What servers ask of a client, and what the client says on the way to its answer."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.harness import PATIENCE, Gateway, call, records, request
from tests.gateway.test_faults import add_rude
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
