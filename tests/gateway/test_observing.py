"""One id for each request, who may read the metrics, and what is kept out of logs."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.harness import WAYS, Gateway, Way, call, modern, modern_headers, request
from tests.modern import META

pytestmark = pytest.mark.anyio


async def seen(gateway: Gateway, headers: dict[str, str]) -> tuple[str, str]:
    """The id in the answer's head, and the one that the server got."""
    body = modern("tools/call", call("raw_seen"))
    async with gateway.http() as http:
        answer = await http.post("/mcp", json=body, headers=modern_headers(body) | headers)
    meta = answer.json()["result"]["structuredContent"]["_meta"]
    return answer.headers["x-request-id"], meta["mcpcp/request"]


async def test_a_request_s_id_goes_to_the_server_and_back_and_is_on_record(
    gateway: Gateway,
) -> None:
    assert await seen(gateway, {"X-Request-Id": "mine.1_a-b"}) == ("mine.1_a-b", "mine.1_a-b")
    (record,) = [r for r in gateway.audit() if r["request_id"] == "mine.1_a-b"]
    assert (record["tool"], record["outcome"]) == ("seen", "ok")


@pytest.mark.parametrize("given", [{}, {"X-Request-Id": "a b"}, {"X-Request-Id": "x" * 65}])
async def test_without_a_good_id_each_request_gets_its_own(
    gateway: Gateway, given: dict[str, str]
) -> None:
    ids = [await seen(gateway, given) for _ in range(3)]
    assert all(back == there for back, there in ids)
    assert len({back for back, _ in ids}) == 3
    assert not {back for back, _ in ids} & set(given.values())


@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_every_way_in_has_ids(gateway: Gateway, way: Way) -> None:
    async with gateway.client(way) as client:
        answers = [await client.call_tool("raw_seen", {}) for _ in range(2)]
    ids = {answer.structured_content["_meta"]["mcpcp/request"] for answer in answers}
    assert len(ids) == 2
    assert ids <= {record["request_id"] for record in gateway.audit()}


async def test_a_client_on_a_pipe_names_its_requests_in_meta(gateway: Gateway) -> None:
    own: Any = {"mcpcp/request": "from-the-pipe"}
    async with gateway.client(Way("stdio", "legacy")) as client:
        await client.call_tool("raw_seen", {}, meta=own)
    assert [r for r in gateway.audit() if r["request_id"] == "from-the-pipe"]


async def test_a_refused_call_has_its_id_on_record_too(gateway: Gateway) -> None:
    body = modern("tools/call", call("no_such_tool"))
    headers = modern_headers(body) | {"X-Request-Id": "refused-1"}
    async with gateway.http() as http:
        answer = await http.post("/mcp", json=body, headers=headers)
    assert answer.headers["x-request-id"] == "refused-1"
    (record,) = [r for r in gateway.audit() if r["request_id"] == "refused-1"]
    assert record["outcome"] == "unknown"


async def test_metrics_are_for_the_scrape_token_and_for_no_agent(gateway: Gateway) -> None:
    for shown in ({}, gateway.headers(), {"Authorization": "Bearer "}):
        status, text = gateway.get("/metrics", **shown)
        assert status == 401
        assert "mcpcp monitoring config" in text
        assert "raw" not in text
    assert "mcpcp_backend_up" in gateway.metrics()


async def test_the_scrape_token_calls_nothing(gateway: Gateway) -> None:
    token = (gateway.folder / "data" / "scrape.token").read_text().strip()
    body = modern("tools/list")
    async with gateway.http(token) as http:
        answer = await http.post("/mcp", json=body, headers=modern_headers(body))
    assert answer.status_code == 401


async def test_methods_that_clients_invent_are_no_labels(fresh: Gateway) -> None:
    fresh.add_raw("raw")
    fresh.start()
    async with fresh.http() as http:
        for number in range(3):
            body = modern(f"invented/method{number}")
            await http.post("/mcp", json=body, headers=modern_headers(body))
    text = fresh.metrics()
    assert "invented" not in text
    assert 'outcome="error",server="raw",tool="(other)"} 3.0' in text


async def test_no_token_is_in_any_log_or_record(fresh: Gateway) -> None:
    fresh.add_raw("raw")
    fresh.extra["logs"] = {"level": "debug", "format": "json"}
    fresh.start()
    good, other = fresh.token(), fresh.token_for("somebody", {"other": ["*"]})
    scrape = (fresh.folder / "data" / "scrape.token").read_text().strip()
    for token in (good, other, scrape, good[:-5]):
        async with fresh.http(token) as http:
            body = request("initialize", {"_meta": META, "token": token})
            await http.post("/mcp", json=body)
            body = modern("tools/call", call("raw_echo", message=token))
            await http.post("/mcp", json=body, headers=modern_headers(body))
    assert fresh.stop() == 0
    written = [p for p in fresh.folder.rglob("*") if p.is_file() and p.name != "scrape.token"]
    texts = {p.name: p.read_text(errors="replace") for p in written if p.parent != fresh.keys}
    assert texts["gateway.log"].startswith("{")
    assert not [
        name for name, text in texts.items() if any(t in text for t in (good, other, scrape))
    ]
