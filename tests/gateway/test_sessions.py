"""What a legacy client's session keeps: over its servers' restarts, cut streams, another era."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import mcp_types as types
import psutil
import pytest

from tests.gateway.harness import PATIENCE, RAW, Gateway, Way, call, records, request
from tests.gateway.test_faults import RUDE
from tests.gateway.test_http_protocol import INITIALIZE
from tests.gateway.test_servers_away import failing
from tests.processes import command

pytestmark = pytest.mark.anyio

NEWEST = {**INITIALIZE, "protocolVersion": "2025-11-25"}


async def begin(http: Any, hello: Any = NEWEST) -> dict[str, str]:
    """A session; the headers that name it."""
    answer = await http.post("/mcp", json=request("initialize", hello))
    return {"Mcp-Session-Id": answer.headers["mcp-session-id"]}


async def ask(http: Any, session: dict[str, str], method: str, params: Any) -> Any:
    posted = await http.post("/mcp", json=request(method, params), headers=session)
    data = [line[6:] for line in posted.text.splitlines() if line.startswith("data: {")]
    answer = json.loads(data[-1] if data else posted.text)
    assert "result" in answer, answer
    return answer["result"]


@pytest.mark.parametrize("sessions", ["shared", "per_client"])
async def test_log_level_and_subscriptions_are_renewed_after_a_server_s_restart(
    fresh: Gateway, tmp_path: Path, sessions: str
) -> None:
    file = tmp_path / "journal"
    arguments = [str(RUDE), "--name", "rude", "--journal", str(file)]
    fresh.servers["rude"] = {"command": "python", "args": arguments}
    wanted = {
        ("resources/subscribe", '{"uri": "rude://rude"}'),
        ("logging/setLevel", '{"level": "warning"}'),
    }
    fresh.servers["rude"]["sessions"] = sessions
    fresh.start()

    def told() -> dict[int, set[tuple[str, str]]]:
        """By process, what of that it was told."""
        found: dict[int, set[tuple[str, str]]] = {}
        for line in records(file):
            entry = (line.get("method", ""), json.dumps(_plain(line.get("params"))))
            found.setdefault(line["pid"], set()).add(entry)
        return {pid: entries & wanted for pid, entries in found.items() if entries & wanted}

    async with fresh.http() as http:
        session = await begin(http)
        await ask(http, session, "tools/call", call("rude_echo", message="opens the session"))
        await ask(http, session, "logging/setLevel", {"level": "warning"})
        await ask(http, session, "resources/subscribe", {"uri": "rude://rude"})
        ((first, entries),) = told().items()
        assert entries == wanted
        for process in _processes(fresh):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        await fresh.until(lambda: wanted in [e for p, e in told().items() if p != first])
        answer = await ask(http, session, "tools/call", call("rude_echo", message="again"))
        assert answer["content"][0]["text"] == "again"


def _plain(params: Any) -> Any:
    return {k: v for k, v in params.items() if k != "_meta"} if isinstance(params, dict) else params


def _processes(gateway: Gateway) -> list[Any]:
    return [p for p in psutil.Process(gateway.pid).children() if str(RUDE) in command(p)]


async def test_a_legacy_client_is_asked_what_a_modern_server_asks_in_rounds(fresh: Gateway) -> None:
    words = iter(("one", "two"))
    asked: list[str] = []

    async def elicit(context: Any, params: Any) -> types.ElicitResult:
        asked.append(params.message)
        return types.ElicitResult(action="accept", content={"word": next(words)})

    async def refuse(context: Any, params: Any) -> types.ErrorData:
        return types.ErrorData(code=-32042, message="nobody is here")

    fresh.servers["new"] = {"command": "python", "args": [str(RAW), "--modern"]}
    fresh.start()
    way = Way("http", "legacy")
    async with fresh.client(way, elicitation_callback=elicit) as client, asyncio.timeout(PATIENCE):
        answer = await client.call_tool("new_ask", {})
        assert answer.content[0].text == "the words: one two"
        assert asked == ["word 0", "word 1"]
    async with fresh.client(way, elicitation_callback=refuse) as client, asyncio.timeout(PATIENCE):
        error = await failing(client, "new_ask")
        assert (error.error.code, error.error.message) == (-32042, "nobody is here")


class Events:
    """Reads a stream line by line; `last` is the id of the newest event."""

    def __init__(self, response: Any) -> None:
        self._lines = response.aiter_lines()
        self.last = ""

    async def next(self) -> Any:
        """The next message; None at the stream's end."""
        async for line in self._lines:
            if line.startswith("id: "):
                self.last = line[4:]
            elif line.startswith("data: ") and line != "data: ":
                return json.loads(line[6:])
        return None


@pytest.mark.parametrize("version", ["2025-03-26", "2025-06-18", "2025-11-25"])
async def test_a_call_s_stream_that_was_cut_goes_on_where_it_was_with_nothing_lost_or_doubled(
    fresh: Gateway, tmp_path: Path, version: str
) -> None:
    fresh.add_raw("raw")
    fresh.start()
    until = tmp_path / "until"
    params = call("raw_wait", file=str(tmp_path / "begun"), until=str(until))
    params["_meta"] = {"progressToken": "p"}
    async with fresh.http() as http, asyncio.timeout(PATIENCE):
        session = await begin(http, {**INITIALIZE, "protocolVersion": version})
        body = request("tools/call", params, "call")
        async with http.stream("POST", "/mcp", json=body, headers=session) as response:
            events = Events(response)
            assert (await events.next())["params"]["progressToken"] == "p"
        until.touch()  # the answer comes while nobody listens
        await ask(http, session, "tools/call", call("raw_echo", message="meanwhile"))
        for _ in range(2):  # and a second time: what was replayed can be lost again
            headers = {**session, "Last-Event-ID": events.last, "Accept": "text/event-stream"}
            async with http.stream("GET", "/mcp", headers=headers) as response:
                assert response.status_code == 200
                rest = Events(response)
                answer = await rest.next()
                assert answer["id"] == "call"
                assert answer["result"]["content"][0]["text"] == "released"
                assert await rest.next() is None
    assert (tmp_path / "begun").read_text().split() == ["begun"], "the cut was no cancellation"


async def test_the_session_s_own_stream_goes_on_where_it_was_cut(fresh: Gateway) -> None:
    fresh.add_raw("raw")
    fresh.start()
    changed = "notifications/tools/list_changed"

    async def change(name: str) -> None:
        await ask(http, session, "tools/call", call("raw_grow", name=name))

    async def listed(name: str) -> None:
        while f"raw_{name}" not in str(await ask(http, session, "tools/list", {})):  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    async with fresh.http() as http, asyncio.timeout(PATIENCE):
        session = await begin(http)
        headers = {**session, "Accept": "text/event-stream"}
        async with http.stream("GET", "/mcp", headers=headers) as response:
            events = Events(response)
            await change("first")
            assert (await events.next())["method"] == changed
            last = events.last
        for name in ("second", "third"):
            await change(name)
            await listed(name)
        resumed = {**headers, "Last-Event-ID": last}
        async with http.stream("GET", "/mcp", headers=resumed) as response:
            events = Events(response)
            seen = []
            for _ in range(2):
                assert (await events.next())["method"] == changed
                seen.append(events.last)
            await change("fourth")
            assert (await events.next())["method"] == changed
            assert len({last, *seen, events.last}) == 4


@pytest.mark.parametrize("last", ["", "x", "1", "99-1", "1-x", "-1--1", "1-99999999999999999999"])
async def test_an_event_id_that_is_not_ours_opens_a_stream_all_the_same(
    gateway: Gateway, last: str
) -> None:
    async with gateway.http() as http, asyncio.timeout(PATIENCE):
        session = await begin(http)
        headers = {**session, "Accept": "text/event-stream", "Last-Event-ID": last}
        async with http.stream("GET", "/mcp", headers=headers) as response:
            assert response.status_code == 200
