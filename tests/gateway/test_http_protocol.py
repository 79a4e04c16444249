"""What `/mcp` and its neighbours answer to every kind of HTTP request, good and bad."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.gateway.harness import PATIENCE, Gateway, call, modern, modern_headers, request

pytestmark = pytest.mark.anyio

INITIALIZE = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "tests", "version": "1"},
}


async def post(gateway: Gateway, body: Any, **headers: str) -> httpx2.Response:
    async with gateway.http() as http:
        return await http.post("/mcp", json=body, headers=headers)


async def post_modern(gateway: Gateway, body: Any, **headers: str) -> httpx2.Response:
    async with gateway.http() as http:
        return await http.post("/mcp", json=body, headers={**modern_headers(body), **headers})


async def initialize(http: httpx2.AsyncClient, hello: Any = INITIALIZE) -> dict[str, str]:
    """A legacy session; the header that names it."""
    answer = await http.post("/mcp", json=request("initialize", hello))
    assert answer.status_code == 200
    assert answer.json()["result"]["protocolVersion"] == "2025-06-18"
    return {"Mcp-Session-Id": answer.headers["mcp-session-id"]}


def code(answer: httpx2.Response) -> int:
    return int(answer.json()["error"]["code"])


# Who may come in


@pytest.mark.parametrize("path", ["/mcp", "/sse", "/messages"])
@pytest.mark.parametrize(
    "authorization", [None, "Bearer x.y.z", "Basic YTpi", "Bearer", "x" * 9000]
)
async def test_without_a_valid_token_nothing_is_served_and_the_way_in_is_named(
    gateway: Gateway, path: str, authorization: str | None
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    async with httpx2.AsyncClient(headers=headers) as http:
        for method in ("GET", "POST", "DELETE"):
            answer = await http.request(method, gateway.url(path))
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith('Bearer realm="mcpcp"')


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:9003"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "[::1]:9003"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost.evil.example"}, 403),
        ({"Origin": "file://localhost"}, 403),
        ({"Origin": "http://localhost:3000"}, 200),
        ({"Origin": "http://127.0.0.1:5173"}, 200),
    ],
)
async def test_host_and_origin_are_checked_before_everything_else(
    gateway: Gateway, headers: dict[str, str], status: int
) -> None:
    async with httpx2.AsyncClient() as http:
        for _ in range(2):  # a good one in between must not open the door
            assert (await http.get(gateway.url("/health"))).status_code == 200
            answer = await http.get(gateway.url("/health"), headers=headers)
            assert answer.status_code == status


async def test_a_doubled_host_is_refused(gateway: Gateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
    async with asyncio.timeout(PATIENCE):
        assert b" 40" in await reader.readline()
    writer.close()
    await writer.wait_closed()


async def test_a_session_is_its_identity_s_own(gateway: Gateway) -> None:
    async with gateway.http() as http, gateway.http(gateway.token("other_only")) as stranger:
        session = await initialize(http)
        listing = request("tools/list")
        for method, body in (("POST", listing), ("GET", None), ("DELETE", None)):
            answer = await stranger.request(method, "/mcp", json=body, headers=session)
            assert answer.status_code == 404
        assert (await http.post("/mcp", json=listing, headers=session)).status_code == 200
    other_grant = gateway.token_for("tester", {"raw": ["*"]})
    async with gateway.http(other_grant) as http:
        assert (await http.post("/mcp", json=listing, headers=session)).status_code == 404


async def test_a_renewed_token_of_the_same_grant_continues_the_session(gateway: Gateway) -> None:
    async with gateway.http() as http, gateway.http(gateway.token(ttl=1200)) as renewed:
        session = await initialize(http)
        answer = await renewed.post("/mcp", json=request("tools/list"), headers=session)
        assert answer.status_code == 200


async def test_an_old_sse_session_is_its_identity_s_own(gateway: Gateway) -> None:
    async with (
        gateway.http() as http,
        gateway.http(gateway.token("other_only")) as stranger,
        http.stream("GET", "/sse") as stream,
    ):
        lines = stream.aiter_lines()
        assert await anext(lines) == "event: endpoint"
        endpoint = (await anext(lines)).removeprefix("data: ")
        body = request("initialize", INITIALIZE)
        assert (await stranger.post(endpoint, json=body)).status_code == 404
        assert (await http.post(endpoint, json=body)).status_code == 202


# Bodies


@pytest.mark.parametrize("era", ["legacy", "modern"])
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{", -32700),
        (b"", -32700),
        (b"\xff\xfe", -32700),
        (b"[" * 100_000, -32700),
        (b"[]", -32600),
        (b'[{"jsonrpc": "2.0", "id": 1, "method": "ping"}]', -32600),
        (b"null", -32600),
        (b'"text"', -32600),
        (b'{"id": 1, "method": "ping"}', -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": 5}', -32600),
        (b'{"jsonrpc": "2.0", "id": {}, "method": "ping"}', -32600),
        (b'{"jsonrpc": "2.0", "id": true, "method": "ping"}', -32600),
    ],
)
async def test_what_is_no_request_is_refused_with_400(
    gateway: Gateway, era: str, body: bytes, expected: int
) -> None:
    headers = (
        {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "ping"} if era == "modern" else {}
    )
    async with gateway.http() as http:
        answer = await http.post("/mcp", content=body, headers=headers)
    assert (answer.status_code, code(answer)) == (400, expected)


async def test_a_body_that_is_too_large_is_refused_with_413(gateway: Gateway) -> None:
    big = json.dumps(modern("tools/call", call("raw_echo", message="x" * (5 * 2**20)))).encode()

    async def in_pieces() -> Any:
        for start in range(0, len(big), 65536):
            yield big[start : start + 65536]

    async with gateway.http() as http:
        for content in (big, in_pieces()):
            answer = await http.post("/mcp", content=content)
            assert answer.status_code == 413


async def test_a_large_body_within_the_limit_comes_back_whole(gateway: Gateway) -> None:
    text = "x" * (3 * 2**20)
    answer = await post_modern(gateway, modern("tools/call", call("raw_echo", message=text)))
    assert answer.json()["result"]["content"][0]["text"] == text


# The modern era


async def test_a_modern_request_needs_no_session_and_says_what_it_must(gateway: Gateway) -> None:
    for method in ("server/discover", "tools/list"):
        answer = await post_modern(gateway, modern(method))
        assert answer.status_code == 200
        result = answer.json()["result"]
        assert result["resultType"] == "complete"
        assert result["cacheScope"] == "private"
        assert isinstance(result["ttlMs"], int)
        assert "mcp-session-id" not in answer.headers


@pytest.mark.parametrize(
    "headers",
    [
        {"Mcp-Method": "tools/list"},
        {"Mcp-Method": ""},
        {"Mcp-Name": "raw_pid"},
        {"Mcp-Name": "=?base64?!!!?="},
        {"Mcp-Name": ""},
    ],
)
async def test_headers_that_contradict_the_body_are_refused(
    gateway: Gateway, headers: dict[str, str]
) -> None:
    body = modern("tools/call", call("raw_echo", message="hi"))
    answer = await post_modern(gateway, body, **headers)
    assert (answer.status_code, code(answer)) == (400, -32020)
    assert answer.json()["id"] == body["id"]


async def test_a_missing_mirror_header_is_a_mismatch_too(gateway: Gateway) -> None:
    body = modern("tools/call", call("raw_echo", message="hi"))
    for missing in ("Mcp-Method", "Mcp-Name"):
        headers = modern_headers(body)
        del headers[missing]
        answer = await post(gateway, body, **headers)
        assert (answer.status_code, code(answer)) == (400, -32020)


async def test_a_name_in_base64_is_the_name(gateway: Gateway) -> None:
    body = modern("tools/call", call("raw_echo", message="hi"))
    name = f"=?base64?{base64.b64encode(b'raw_echo').decode()}?="
    answer = await post_modern(gateway, body, **{"Mcp-Name": name})
    assert answer.json()["result"]["content"][0]["text"] == "hi"


async def test_white_space_around_a_header_s_value_does_not_count(gateway: Gateway) -> None:
    body = json.dumps(modern("tools/call", call("raw_echo", message="hi"))).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(
        b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Authorization: Bearer %s\r\nContent-Length: %d\r\n"
        b"MCP-Protocol-Version: \t2026-07-28  \r\nMcp-Method:   tools/call \r\n"
        b"Mcp-Name:\traw_echo\t\r\n\r\n%s" % (gateway.token().encode(), len(body), body)
    )
    async with asyncio.timeout(PATIENCE):
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200")
    writer.close()
    await writer.wait_closed()


async def test_a_version_in_header_and_body_must_be_the_same(gateway: Gateway) -> None:
    body = modern("tools/list")
    body["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = "2027-01-01"
    answer = await post_modern(gateway, body)
    assert (answer.status_code, code(answer)) == (400, -32020)


async def test_a_version_that_we_do_not_know_is_refused_with_those_that_we_do(
    gateway: Gateway,
) -> None:
    body = modern("tools/list")
    body["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = "2099-01-01"
    answer = await post_modern(gateway, body, **{"MCP-Protocol-Version": "2099-01-01"})
    assert (answer.status_code, code(answer)) == (400, -32022)
    data = {"supported": ["2026-07-28"], "requested": "2099-01-01"}
    assert answer.json()["error"]["data"] == data


async def test_an_unknown_method_is_404_in_the_modern_era(gateway: Gateway) -> None:
    answer = await post_modern(gateway, modern("no/such"))
    assert (answer.status_code, code(answer)) == (404, -32601)


async def test_a_modern_request_without_its_envelope_is_refused(gateway: Gateway) -> None:
    shapes: list[dict[str, Any]] = [{}, {"_meta": {}}, {"_meta": 5}]
    for params in shapes:
        body = request("tools/list", params)
        answer = await post(gateway, body, **modern_headers(body))
        assert (answer.status_code, code(answer)) == (400, -32602)


async def test_modern_clients_only_post(gateway: Gateway) -> None:
    async with gateway.http() as http:
        for method in ("GET", "DELETE"):
            answer = await http.request(
                method, "/mcp", headers={"MCP-Protocol-Version": "2026-07-28"}
            )
            assert answer.status_code == 405


@pytest.mark.parametrize("bad", [None, 5, ["raw_echo"], {}])
async def test_a_call_that_names_no_tool_is_refused(gateway: Gateway, bad: Any) -> None:
    body = modern("tools/call", {"name": bad})
    headers = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call"}
    answer = await post(gateway, body, **headers)
    assert answer.status_code == 400


@pytest.mark.parametrize("params", [[], "text", 5, {"name": "raw_echo", "_meta": [1]}])
async def test_params_of_a_wrong_shape_are_the_client_s_error(
    gateway: Gateway, params: Any
) -> None:
    async with gateway.http() as http:
        session = await initialize(http)
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        answer = await http.post("/mcp", json=body, headers=session)
    assert code(answer) in (-32602, -32600)


# The legacy era


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
async def test_each_legacy_version_is_spoken(gateway: Gateway, version: str) -> None:
    body = request("initialize", {**INITIALIZE, "protocolVersion": version})
    assert (await post(gateway, body)).json()["result"]["protocolVersion"] == version


async def test_an_unknown_version_is_answered_with_our_latest(gateway: Gateway) -> None:
    body = request("initialize", {**INITIALIZE, "protocolVersion": "1999-01-01"})
    assert (await post(gateway, body)).json()["result"]["protocolVersion"] == "2025-11-25"


async def test_a_legacy_request_needs_a_session(gateway: Gateway) -> None:
    answer = await post(gateway, request("tools/list"))
    assert answer.status_code == 400
    answer = await post(gateway, request("tools/list"), **{"Mcp-Session-Id": "unknown"})
    assert answer.status_code == 404


async def test_a_deleted_session_is_gone_with_its_stream(gateway: Gateway) -> None:
    async with gateway.http() as http:
        session = await initialize(http)
        async with http.stream("GET", "/mcp", headers=session) as stream:
            assert stream.status_code == 200
            assert stream.headers["content-type"] == "text/event-stream"
            assert (await http.get("/mcp", headers=session)).status_code == 409
            assert (await http.delete("/mcp", headers=session)).status_code == 200
            async with asyncio.timeout(PATIENCE):
                assert [line async for line in stream.aiter_lines() if line] == []
        answer = await http.post("/mcp", json=request("tools/list"), headers=session)
        assert answer.status_code == 404


async def test_a_stream_that_the_client_left_can_be_opened_again(gateway: Gateway) -> None:
    async with gateway.http() as http:
        session = await initialize(http)
        for _ in range(3):
            async with asyncio.timeout(PATIENCE):
                while True:
                    async with http.stream("GET", "/mcp", headers=session) as stream:
                        if stream.status_code == 200:
                            break
                        assert stream.status_code == 409  # its end is not noticed yet


async def test_notifications_are_accepted_and_an_unknown_method_is_an_error(
    gateway: Gateway,
) -> None:
    async with gateway.http() as http:
        session = await initialize(http)
        note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        answer = await http.post("/mcp", json=note, headers=session)
        assert (answer.status_code, answer.content) == (202, b"")
        answer = await http.post("/mcp", json=request("no/such"), headers=session)
        assert code(answer) == -32601
        answer = await http.post("/mcp", json=request("ping"), headers=session)
        assert answer.json()["result"] == {}


async def test_a_request_id_that_is_in_use_is_refused(gateway: Gateway, tmp_path: Any) -> None:
    async with gateway.http() as http, asyncio.TaskGroup() as tasks:
        session = await initialize(http)
        begun = tmp_path / "begun"
        waiting = request("tools/call", call("raw_wait", file=str(begun)), 7)
        first = tasks.create_task(http.post("/mcp", json=waiting, headers=session))
        await gateway.until(begun.exists)
        answer = await http.post("/mcp", json=request("ping", request_id=7), headers=session)
        assert answer.status_code == 400
        released = request("tools/call", call("raw_release"), 8)
        await http.post("/mcp", json=released, headers=session)
    assert first.result().json()["result"]["content"][0]["text"] == "released"


async def test_a_meta_of_null_is_no_meta(gateway: Gateway) -> None:
    async with gateway.http() as http:
        session = await initialize(http)
        body = request("tools/call", call("raw_echo", message="hi") | {"_meta": None})
        answer = await http.post("/mcp", json=body, headers=session)
    assert answer.json()["result"]["content"][0]["text"] == "hi"


# Around it


async def test_health_and_ready_are_open_and_metrics_say_what_is(gateway: Gateway) -> None:
    await post_modern(gateway, modern("tools/call", call("raw_echo", message="count me")))
    status, text = gateway.get("/health")
    assert (status, json.loads(text)["pid"]) == (200, gateway.pid)
    assert gateway.get("/ready")[0] == 200
    families = {f.name: f for f in text_string_to_metric_families(gateway.metrics())}
    calls = {
        (s.labels["server"], s.labels["tool"], s.labels["outcome"]): s.value
        for s in families["mcpcp_calls"].samples
        if s.name.endswith("_total")
    }
    assert calls["raw", "echo", "ok"] >= 1
    assert "mcp_server_operation_duration_seconds" in families
    up = {s.labels["server"]: s.value for s in families["mcpcp_backend_up"].samples}
    assert up == {"raw": 1, "other": 1, "plain": 1}


async def test_other_paths_are_not_found(gateway: Gateway) -> None:
    for path in ("/", "/mcp/x", "/mcpx", "/sse/../mcp2", "/admin", "/%2e%2e/health"):
        assert gateway.get(path)[0] in (400, 404)


async def test_denials_are_counted_by_reason_and_names_of_clients_are_no_labels(
    gateway: Gateway,
) -> None:
    await post_modern(gateway, modern("tools/call", call("a_name_of_the_client_s")))
    async with httpx2.AsyncClient() as http:
        await http.post(gateway.url(), json={})
    text = gateway.metrics()
    assert 'mcpcp_denied_total{reason="unknown"}' in text
    assert 'mcpcp_denied_total{reason="missing"}' in text
    assert "a_name_of_the_client_s" not in text
