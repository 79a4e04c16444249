"""A trace that comes in the headers of HTTP goes on, and so does one through the chat service."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mcpcp import tracecontext
from tests.chat.harness import ask, open_chat
from tests.chat.scripted import ScriptedLlm, say, scripted_llm
from tests.chat.scripted import call as wants
from tests.gateway.harness import Gateway, call, modern, modern_headers, request
from tests.gateway.test_sessions import NEWEST, begin
from tests.monitoring.test_traces import PARENT, TRACE, TRACEPARENT, Collector, collecting

pytestmark = pytest.mark.anyio

OTHER = "4bf92f3577b34da6a3ce929d0e0e4736"
HEADERS = {"traceparent": TRACEPARENT, "tracestate": "vendor=1"}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as made:
        yield made


@pytest.fixture
def before(fresh: Gateway) -> Gateway:
    """A gateway for a chat service."""
    fresh.add_raw("raw")
    fresh.agents["chat"] = {"allow": {"raw": ["*"]}}
    return fresh


async def seen(gateway: Gateway, headers: dict[str, str], **meta: Any) -> Any:
    """The `_meta` that a server gets."""
    body = modern("tools/call", call("raw_seen") | {"_meta": meta})
    async with gateway.http() as http:
        answer = await http.post("/mcp", json=body, headers={**modern_headers(body), **headers})
    return answer.json()["result"]["structuredContent"]["_meta"]


async def test_the_headers_context_is_the_parent(fresh: Gateway, collector: Collector) -> None:
    fresh.add_raw("raw")
    fresh.environ |= collector.environ
    fresh.start()
    sent = await seen(fresh, HEADERS)
    span = collector.find("mcpcp-gateway", "tools/call seen")
    assert (span.trace, span.parent) == (TRACE, PARENT)
    assert sent["traceparent"].startswith(f"00-{TRACE}-{span.id}-")
    assert sent["tracestate"] == "vendor=1"


async def test_what_is_in_meta_counts_first(fresh: Gateway, collector: Collector) -> None:
    fresh.add_raw("raw")
    fresh.environ |= collector.environ
    fresh.start()
    own = f"00-{OTHER}-{PARENT}-01"
    sent = await seen(fresh, HEADERS, traceparent=own)
    assert sent["traceparent"].startswith(f"00-{OTHER}-")
    assert "tracestate" not in sent, "it belongs to the other trace"


async def test_it_is_of_its_own_request_alone(fresh: Gateway, collector: Collector) -> None:
    fresh.add_raw("raw")
    fresh.environ |= collector.environ
    fresh.start()
    body = modern("tools/call", call("raw_seen"))
    async with fresh.http() as http:  # one connection, one task of the gateway's
        for headers in (HEADERS, {}):
            answer = await http.post("/mcp", json=body, headers={**modern_headers(body), **headers})
            sent = answer.json()["result"]["structuredContent"]["_meta"]["traceparent"]
            assert (TRACE in sent) is bool(headers)


async def test_without_a_collector_it_goes_on_to_the_server(fresh: Gateway) -> None:
    fresh.add_raw("raw")
    fresh.start()
    sent = await seen(fresh, HEADERS)
    assert {key: sent[key] for key in HEADERS} == HEADERS
    own = f"00-{OTHER}-{PARENT}-01"
    sent = await seen(fresh, HEADERS, traceparent=own)
    assert sent["traceparent"] == own
    assert "tracestate" not in sent
    assert "traceparent" not in await seen(fresh, {"traceparent": "no context"})
    async with fresh.http() as http:  # the older protocol
        session = await begin(http, NEWEST)
        body = request("tools/call", call("raw_seen"))
        answer = await http.post("/mcp", json=body, headers={**session, **HEADERS})
        assert TRACEPARENT in answer.text


@pytest.mark.parametrize(
    ("parent", "state", "kept"),
    [
        (TRACEPARENT, None, {"traceparent": TRACEPARENT}),
        (TRACEPARENT, "a=1,b=2", {"traceparent": TRACEPARENT, "tracestate": "a=1,b=2"}),
        (TRACEPARENT, "x" * 513, {"traceparent": TRACEPARENT}),
        (TRACEPARENT, "a=\x00", {"traceparent": TRACEPARENT}),
        (f"ff-{TRACE}-{PARENT}-01", None, {}),
        (f"{TRACEPARENT}\n", None, {}),
        (TRACEPARENT.upper(), None, {}),
        ("", "a=1", {}),
        (None, "a=1", {}),
    ],
)
def test_only_what_has_the_form_is_taken(
    parent: str | None, state: str | None, kept: dict[str, str]
) -> None:
    headers = {b"traceparent": parent, b"tracestate": state}
    tracecontext.begin(headers.get)
    assert tracecontext.current() == kept


@pytest.fixture
def llm() -> Iterator[ScriptedLlm]:
    with scripted_llm() as made:
        yield made


def variables(llm: ScriptedLlm, collector: Collector | None) -> dict[str, str]:
    return {
        "LLM_BASE_URL": llm.url,
        "LLM_MODEL_NAME": "scripted",
        **(collector.environ if collector else {}),
    }


def test_the_chat_is_the_parent_of_its_tool_calls(
    before: Gateway, collector: Collector, llm: ScriptedLlm
) -> None:
    before.environ |= collector.environ
    before.start()
    llm.play(wants(("raw_echo", {"message": "private"})), say("Done."))
    with open_chat(before.config, before.environ, **variables(llm, collector)) as chat:
        with chat.client(before.token()) as client:
            client.headers.update(HEADERS)
            assert ask(client)["tool_calls"][0]["result"] == "private"
            refused = client.post("/execute", json={"name": "raw_fail"})
            assert refused.status_code == 200
        asked = collector.find("mcpcp-chat", "POST /chat")
        tool = collector.find("mcpcp-chat", "tools/call raw_echo")
        model = collector.find("mcpcp-chat", "chat scripted")
        gateway = collector.find("mcpcp-gateway", "tools/call echo")
        failed = collector.find("mcpcp-chat", "tools/call raw_fail")
    assert (asked.trace, asked.parent) == (TRACE, PARENT)
    assert (tool.trace, tool.parent) == (TRACE, asked.id)
    assert (model.trace, model.parent) == (TRACE, asked.id)
    assert (gateway.trace, gateway.parent) == (TRACE, tool.id)
    assert tool.attributes["gen_ai.tool.name"] == "raw_echo"
    assert asked.attributes["mcpcp.request"] == gateway.attributes["mcpcp.request"]
    assert not asked.failed
    assert failed.failed
    assert failed.attributes["error.type"] == "error"
    assert "private" not in str(collector.spans)


def test_a_chat_without_a_model_leaves_a_span_that_says_so(
    before: Gateway, collector: Collector, free_port: Any
) -> None:
    before.start()
    llm = {"LLM_BASE_URL": f"http://127.0.0.1:{free_port()}", "LLM_MODEL_NAME": "none"}
    with open_chat(before.config, before.environ, **llm, **collector.environ) as chat:
        with chat.client(before.token()) as client:
            body = {"messages": [{"role": "user", "content": "private"}]}
            assert client.post("/chat", json=body).status_code == 503
        span = collector.find("mcpcp-chat", "POST /chat")
    assert span.failed
    assert span.attributes["error.type"] == "model_unreachable"


def test_a_chat_that_sends_no_spans_lets_its_callers_context_through(
    before: Gateway, collector: Collector, llm: ScriptedLlm
) -> None:
    before.environ |= collector.environ
    before.start()
    quiet = dict.fromkeys(collector.environ, "") | variables(llm, None)
    with (
        open_chat(before.config, before.environ, **quiet) as chat,
        chat.client(before.token()) as client,
    ):
        body = {"name": "raw_echo", "arguments": {"message": "x"}}
        assert client.post("/execute", json=body, headers=HEADERS).status_code == 200
    span = collector.find("mcpcp-gateway", "tools/call echo")
    assert (span.trace, span.parent) == (TRACE, PARENT)


def test_without_an_endpoint_the_chat_imports_nothing_of_opentelemetry(tmp_path: Path) -> None:

    program = (
        "import sys, mcpcp.chat.service; from mcpcp.chat.spans import open_spans;"
        " open_spans({}, str); print([m for m in sys.modules if m.startswith('opentelemetry')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
