"""Servers that break the protocol: it costs them a call at most, and nobody else anything."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.backends.raw import chunked, whole
from tests.gateway.harness import (
    FOREVER,
    PATIENCE,
    PROJECT,
    Gateway,
    Way,
    call,
    modern,
    modern_headers,
    open_gateway,
    request,
)
from tests.gateway.rude_http import RudeHttp, rude_http, said
from tests.gateway.rude_sse import rude_sse
from tests.gateway.test_http_protocol import initialize
from tests.gateway.test_servers_away import answered_in_the_end, failing, listening

pytestmark = pytest.mark.anyio

RUDE = PROJECT / "tests" / "programs" / "rude.py"
MODERN, LEGACY = Way("http", "auto"), Way("http", "legacy")
DEEP = 200


def add_rude(gateway: Gateway, name: str, **entry: Any) -> None:
    arguments = [str(RUDE), "--name", name]
    gateway.servers[name] = {"command": "python", "args": arguments, **entry}


@pytest.fixture(scope="module")
def rude_servers(tmp_path_factory: pytest.TempPathFactory, keys: Any) -> Iterator[Gateway]:
    """Rude servers: one for all, one for each client, one with little time; and a good one."""
    with ExitStack() as stack:
        gateway = stack.enter_context(open_gateway(tmp_path_factory.mktemp("rude"), keys))
        add_rude(gateway, "rude", timeout=FOREVER)
        add_rude(gateway, "own", timeout=FOREVER, sessions="per_client")
        add_rude(gateway, "brief", timeout="1s")
        gateway.add_raw("raw")
        gateway.start()
        yield gateway


def message(**members: Any) -> str:
    return json.dumps({"jsonrpc": "2.0", **members})


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


def notice(params: str) -> str:
    return f'{{"jsonrpc":"2.0","method":"notifications/message","params":{params}}}'


NOISE = {
    "no JSON": "this is a stray print",
    "half a message": '{"jsonrpc":"2.0","id":',
    "binary": "\x00\x01\x7f",
    "no object": "[1, null, true]",
    "a number": "7",
    "empty object": "{}",
    "an id that we never sent": message(id=987654321, result={}),
    "an id of another kind": message(id={"a": []}, result={}),
    "an id of null": message(id=None, error={"code": -32700, "message": "what?"}),
    "a method of another kind": message(method=["x"], params={}),
    "an unknown notification": message(method="notifications/x/unknown", params=None),
    "progress that nobody asked for": message(
        method="notifications/progress", params={"progressToken": [1], "progress": 1}
    ),
    "progress without params": message(method="notifications/progress"),
    "an update of no URI": message(method="notifications/resources/updated", params={"uri": [1]}),
    "a cancellation of nothing": message(
        method="notifications/cancelled", params={"requestId": [1]}
    ),
    "a request with a list as params": message(id=1, method="sampling/createMessage", params=[1]),
    "a request with a text as meta": message(
        id=2, method="roots/list", params={"_meta": "x", "progressToken": []}
    ),
    "a request with a list as token": message(
        id=3, method="elicitation/create", params={"_meta": {"progressToken": [1]}}
    ),
    "a request whose id is a list": message(id=[1], method="roots/list"),
    "NaN": notice('{"level":"info","data":NaN}'),
    "infinity": notice('{"level":"info","data":1e999}'),
    "a number without end": notice('{"level":"info","data":' + "9" * 5000 + "}"),
    "duplicate keys": notice('{"level":"info","level":"error","data":1,"data":2}'),
    "half a surrogate": notice('{"level":"info","data":"\\ud800"}'),
    "200 levels deep": notice(nested(DEEP)),
    "500 levels deep": notice(nested(500)),
    "100,000 levels deep": notice(nested(100_000)),
    "lists 300 deep": notice("[" * 300 + "]" * 300),
}


async def leave(http: httpx2.AsyncClient, session: dict[str, str]) -> None:
    """End a legacy session: until then it holds a process of a server with one a client."""
    if session:
        await http.delete("/mcp", headers=session)


@pytest.mark.parametrize("way", [MODERN, LEGACY], ids=str)
@pytest.mark.parametrize("server", ["rude", "own"])
@pytest.mark.parametrize("noise", NOISE)
async def test_noise_before_an_answer_does_not_disturb_the_answer(
    rude_servers: Gateway, noise: str, server: str, way: Way
) -> None:
    async with rude_servers.http() as http:
        session = {} if way.modern else await initialize(http)
        params = call(f"{server}_say", lines=[NOISE[noise]])
        body = modern("tools/call", params) if way.modern else request("tools/call", params)
        headers = modern_headers(body) if way.modern else session
        async with asyncio.timeout(PATIENCE):
            answer = await http.post("/mcp", json=body, headers=headers)
        await leave(http, session)
    assert '"text":"said"' in answer.text
    assert rude_servers.get("/health")[0] == 200


BAD_ANSWERS = {
    "neither result nor error": '{"jsonrpc":"2.0","id":$ID}',
    "an error of text": '{"jsonrpc":"2.0","id":$ID,"error":"broken"}',
    "an error without members": '{"jsonrpc":"2.0","id":$ID,"error":{}}',
    "an error whose code is a list": '{"jsonrpc":"2.0","id":$ID,"error":{"code":[1],"message":1}}',
    "result and error": '{"jsonrpc":"2.0","id":$ID,"result":1,"error":{"code":1,"message":"m"}}',
    "a result of null": '{"jsonrpc":"2.0","id":$ID,"result":null}',
    "a result of text": '{"jsonrpc":"2.0","id":$ID,"result":"x"}',
    "a result 200 levels deep": f'{{"jsonrpc":"2.0","id":$ID,"result":{nested(DEEP)}}}',
    "content of no objects": '{"jsonrpc":"2.0","id":$ID,"result":{"content":[1,{"uri":[]}]}}',
}


@pytest.mark.parametrize("way", [MODERN, LEGACY], ids=str)
@pytest.mark.parametrize("server", ["rude", "own"])
@pytest.mark.parametrize("bad", BAD_ANSWERS)
async def test_a_bad_answer_ends_its_own_call_at_once(
    rude_servers: Gateway, bad: str, server: str, way: Way
) -> None:
    params = call(f"{server}_say", lines=[BAD_ANSWERS[bad]], answer=False)
    echo = call(f"{server}_echo", message="on")
    async with rude_servers.http() as http:
        session = {} if way.modern else await initialize(http)
        answers = []
        for wanted in (params, echo):
            body = modern("tools/call", wanted) if way.modern else request("tools/call", wanted)
            headers = modern_headers(body) if way.modern else session
            async with asyncio.timeout(PATIENCE):  # long before the server's timeout
                answers.append((await http.post("/mcp", json=body, headers=headers)).json())
        await leave(http, session)
    assert "result" in answers[0] or answers[0]["error"]["message"]
    assert answers[1]["result"]["content"][0]["text"] == "on"


@pytest.mark.parametrize("depth", [300, 1000])
async def test_an_answer_too_deep_to_pass_on_is_an_error_in_time(
    rude_servers: Gateway, depth: int
) -> None:
    """Nothing that an encoder of ours refuses may come as far as to a client's stream."""
    line = f'{{"jsonrpc":"2.0","id":$ID,"result":{nested(depth)}}}'
    for way in (MODERN, Way("sse", "legacy")):
        async with rude_servers.client(way) as client:
            async with asyncio.timeout(PATIENCE):
                await failing(client, "brief_say", lines=[line], answer=False)
                assert await answered_in_the_end(client, "brief_echo", message="on") == "on"


@pytest.mark.parametrize("way", [MODERN, LEGACY], ids=str)
async def test_a_hundred_changes_at_once_cost_a_few_lists(
    fresh: Gateway, tmp_path: Path, way: Way
) -> None:
    """The server reads the first question for its list when it has said all that it has to say."""
    journal = tmp_path / "journal"
    arguments = [str(RUDE), "--name", "rude", "--journal", str(journal)]
    fresh.servers["rude"] = {"command": "python", "args": arguments, "timeout": FOREVER}
    fresh.start()

    def lists() -> int:
        told = [json.loads(line) for line in journal.read_text().splitlines()]
        return sum(message.get("method") == "tools/list" for message in told)

    async with listening(fresh, way) as (client, changes):
        before = lists()
        lines = [message(method="notifications/tools/list_changed")] * 100
        await client.call_tool("rude_say", {"lines": lines})
        await changes.next()
        await client.call_tool("rude_echo", {"message": "on"})
        assert 0 < lists() - before < 10
        assert changes.count < 10


async def test_a_line_of_100_megabytes_costs_its_server_a_restart_and_bounded_memory(
    fresh: Gateway, tmp_path: Path
) -> None:
    half, go = tmp_path / "half", tmp_path / "go"
    add_rude(fresh, "rude", timeout=FOREVER)
    fresh.add_raw("raw")
    fresh.start()
    before = psutil.Process(fresh.pid).memory_info().rss
    async with (
        fresh.client(MODERN) as client,
        asyncio.timeout(PATIENCE),
        asyncio.TaskGroup() as tasks,
    ):
        told = {"megabytes": 100, "half": str(half), "go": str(go)}
        flood = tasks.create_task(failing(client, "rude_flood", **told))
        await fresh.until(half.exists)
        for _ in range(20):  # with half of the line on its way
            await client.call_tool("raw_echo", {"message": "quick"})
        assert not flood.done()
        go.touch()
        while not flood.done():
            await client.call_tool("raw_echo", {"message": "quick"})
        assert "rude" in str(flood.result())
        answer = await client.call_tool("rude_echo", {"message": "back"})
        assert answer.content[0].text == "back"
    assert psutil.Process(fresh.pid).memory_info().rss - before < 250 * 2**20


# Streamable HTTP


async def start(gateway: Gateway, rude: RudeHttp, **entry: Any) -> None:
    """The server is in our own loop, which must go on while the gateway starts."""
    gateway.servers["rude"] = {"url": rude.server.url, "timeout": FOREVER, **entry}
    gateway.add_raw("raw")
    await asyncio.to_thread(gateway.start)


def events(*messages: bytes, end: bool) -> bytes:
    parts = [b"event: message\ndata: " + message + b"\n\n" for message in messages]
    return chunked(*parts, content_type="text/event-stream", end=end)


def long_answer(more: bytes) -> bytes:
    """An answer that would pass as it came, were it not for `more` of its result."""
    return b'{"jsonrpc":"2.0","id":3,"result":{"content":"%b",%b}}' % (b"x" * 5000, more)


BAD_RESULTS = {
    "with NaN": long_answer(b'"n":NaN'),
    "with a control character": long_answer(b'"n":"\x01"'),
    "with a comma too many": long_answer(b'"n":1,'),
    "that is no UTF-8": long_answer(b'"n":"\xff"'),
    "with half a surrogate": long_answer(b'"n":"\\ud800"'),
    "with a member beside it": long_answer(b'"n":1},"method":"x","m":{"n":1'),
    "that is too deep": long_answer(b'"n":' + b"[" * 300 + b"]" * 300),
    "cut short": long_answer(b'"n":1')[:-2],
}
UNANSWERED: dict[str, tuple[bytes, bool]] = {
    **{f"a long result {kind}": (whole(text), True) for kind, text in BAD_RESULTS.items()},
    "a stream of such results": (events(*BAD_RESULTS.values(), end=True), True),
    "accepted and nothing more": (whole(b"", "202 Accepted"), True),
    "a question and nothing more": (whole(b'{"jsonrpc":"2.0","id":1,"method":"x"}'), True),
    "an empty answer": (whole(b""), True),
    "a page": (whole(b"<html>hello</html>"), True),
    "half of JSON": (whole(b'{"jsonrpc":"2.0","id":'), True),
    "an answer to another id": (whole(b'{"jsonrpc":"2.0","id":99999,"result":{}}'), True),
    "an answer to an id like it": (b"", True),
    "a stream without an answer": (events(end=True), True),
    "a stream of garbage": (events(b"garbage", end=True), True),
    "HTTP 500": (whole(b"", "500 Internal Server Error"), True),
    "HTTP 502": (whole(b"oops", "502 Bad Gateway"), True),
    "HTTP 403": (whole(b"", "403 Forbidden"), False),
    "HTTP 429": (whole(b"", "429 Too Many Requests"), False),
    "HTTP 302": (whole(b"", "302 Found", "location: http://127.0.0.1:1/\r\n"), False),
}


@pytest.mark.parametrize("kind", UNANSWERED)
async def test_a_post_without_an_answer_is_an_error_at_once_and_is_not_sent_again(
    fresh: Gateway, kind: str
) -> None:
    reply, delivered = UNANSWERED[kind]

    async def answer(message: Any, writer: asyncio.StreamWriter) -> None:
        alike = {"jsonrpc": "2.0", "id": float(message["id"]), "result": {}}
        writer.write(reply or whole(json.dumps(alike).encode()))

    async with rude_http(answer) as rude:
        await start(fresh, rude)
        for way in (MODERN, LEGACY):
            rude.calls.clear()
            async with fresh.client(way) as client, asyncio.timeout(PATIENCE):
                error = await failing(client, "rude_do")
            assert str(error)
            assert error.error.code != -32700, "that would say that the client's JSON is bad"
            if error.error.data is not None:
                assert error.error.data == {"delivered": delivered}
            assert len(rude.calls) == 1
        await asyncio.to_thread(fresh.close)


@pytest.mark.parametrize("repeatable", [False, True])
async def test_a_stream_cut_in_mid_call_is_an_error_at_once_or_a_second_try_where_that_is_harmless(
    fresh: Gateway, repeatable: bool
) -> None:
    async def answer(message: Any, writer: asyncio.StreamWriter) -> None:
        if len(rude.calls) == 1:
            writer.write(events(notice("{}").encode(), end=False))
            await writer.drain()
            writer.close()
        else:
            writer.write(whole(said(message, "at last")))

    async with rude_http(answer, idempotentHint=repeatable) as rude:
        await start(fresh, rude)
        async with fresh.client(MODERN) as client, asyncio.timeout(PATIENCE):
            if repeatable:
                answered = await client.call_tool("rude_do", {})
                assert answered.content[0].text == "at last"
            else:
                error = await failing(client, "rude_do")
                assert error.error.data == {"delivered": True}
                assert "not known" in str(error)
        assert len(rude.calls) == 1 + repeatable
        await asyncio.to_thread(fresh.close)


GONE = {
    "404": whole(b"gone", "404 Not Found"),
    "400": whole(b"Invalid session", "400 Bad Request"),
    "400 as the TypeScript SDK says it": whole(
        b'{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: No valid session ID'
        b' provided"},"id":null}',
        "400 Bad Request",
    ),
}


@pytest.mark.parametrize("gone", GONE)
@pytest.mark.parametrize("way", [MODERN, LEGACY], ids=str)
async def test_a_call_on_a_session_that_is_gone_is_made_on_a_new_one(
    fresh: Gateway, way: Way, gone: str
) -> None:
    async def answer(message: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(said(message, "here")))

    async with rude_http(answer) as rude:
        rude.gone = GONE[gone]
        await start(fresh, rude)
        async with fresh.client(way) as client:
            for _ in range(2):
                await client.call_tool("rude_do", {})
                rude.forgotten |= {f"session-{n + 1}" for n in range(rude.sessions)}
                answered = await client.call_tool("rude_do", {})
                assert answered.content[0].text == "here"
        assert len(rude.calls) == 4
        assert len({session for session, _ in rude.calls}) == 3
        await asyncio.to_thread(fresh.close)


@pytest.mark.parametrize("gone", GONE)
async def test_over_sse_too_a_call_on_a_session_that_is_gone_is_made_on_a_new_one(
    fresh: Gateway, gone: str
) -> None:
    """Its stream is open still: a proxy may hold it."""
    async with rude_sse(GONE[gone]) as rude:
        fresh.servers["rude"] = {"url": rude.server.url, "type": "sse", "timeout": FOREVER}
        await asyncio.to_thread(fresh.start)
        async with fresh.client(MODERN) as client:
            await client.call_tool("rude_do", {})
            rude.forgotten |= set(rude.calls)
            answered = await client.call_tool("rude_do", {})
            assert answered.content[0].text == "here"
        first, second = rude.calls
        assert first != second
        await asyncio.to_thread(fresh.close)


async def test_an_sse_stream_cut_in_mid_call_is_an_error_at_once_and_the_next_call_is_made_anew(
    fresh: Gateway,
) -> None:
    """The call was accepted; whether it had an effect nobody can say, so it is not sent again."""
    async with rude_sse(b"") as rude:
        rude.noise = [None]
        fresh.servers["rude"] = {"url": rude.server.url, "type": "sse", "timeout": FOREVER}
        await asyncio.to_thread(fresh.start)
        for way in (MODERN, LEGACY):
            rude.calls.clear()
            rude.noise = [None]
            async with fresh.client(way) as client, asyncio.timeout(PATIENCE):
                error = await failing(client, "rude_do")
                assert error.error.data == {"delivered": True}
                assert len(rude.calls) == 1
                assert (await client.call_tool("rude_do", {})).content[0].text == "here"
            first, second = rude.calls
            assert first != second
        await asyncio.to_thread(fresh.close)


async def test_noise_on_an_sse_stream_does_not_disturb_the_answer(fresh: Gateway) -> None:
    # The clients' SDK reads nothing that is deep.
    noise = [text.encode() for name, text in NOISE.items() if "deep" not in name]
    async with rude_sse(b"") as rude:
        rude.noise = [noise, noise]
        fresh.servers["rude"] = {"url": rude.server.url, "type": "sse", "timeout": FOREVER}
        await asyncio.to_thread(fresh.start)
        for way in (MODERN, LEGACY):
            async with fresh.client(way) as client, asyncio.timeout(PATIENCE):
                assert (await client.call_tool("rude_do", {})).content[0].text == "here"
        assert not rude.noise
        await asyncio.to_thread(fresh.close)


@pytest.mark.parametrize("able", [True, False])
async def test_a_server_s_own_stream_is_taken_up_where_it_was_cut_or_else_from_anew(
    fresh: Gateway, able: bool
) -> None:
    async def answer(message: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(said(message, "here")))

    async def listen(time: int, writer: asyncio.StreamWriter) -> None:
        if not able and rude.listening[-1] is not None:
            writer.write(whole(b"", "400 Bad Request"))
            return
        data = b"id: \xc3\xa9-%d\nretry: 1\ndata: %b\n\n" % (time, notice("{}").encode())
        writer.write(chunked(data, content_type="text/event-stream", end=time < 4))

    async with rude_http(answer) as rude:
        rude.listen = listen
        await start(fresh, rude)
        async with asyncio.timeout(PATIENCE):
            await fresh.until(lambda: len(rude.listening) >= 4)
        ids = [f"\u00e9-{n}".encode().decode("latin-1") for n in range(1, 4)]
        expected = ids if able else [ids[0], None, ids[2]]
        assert rude.listening[:4] == [None, *expected]
        await asyncio.to_thread(fresh.close)


@pytest.mark.parametrize(
    "body",
    [b'{"jsonrpc":"2.0","error":{"code":-1,"message":"no"},"id":null}', b"what?"],
    ids=["an error", "a text"],
)
async def test_a_call_that_is_answered_400_costs_no_session_that_lives(
    fresh: Gateway, body: bytes
) -> None:
    async def answer(message: Any, writer: asyncio.StreamWriter) -> None:
        bad = len(rude.calls) == 2
        writer.write(whole(body, "400 Bad Request") if bad else whole(said(message, "fine")))

    async with rude_http(answer) as rude:
        await start(fresh, rude)
        async with fresh.client(LEGACY) as client:
            await client.call_tool("rude_do", {})
            assert str(await failing(client, "rude_do"))
            assert (await client.call_tool("rude_do", {})).content[0].text == "fine"
        assert len(rude.calls) == 3
        assert len({session for session, _ in rude.calls}) == 1
        await asyncio.to_thread(fresh.close)
