"""Traces: from a client's span through the gateway to the server, in a real OTLP collector."""

from __future__ import annotations

import gzip
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.fleet import PATIENCE, Fleet, rpc
from tests.gateway.harness import Gateway, call, modern, modern_headers
from tests.servers.harness import PROBE

pytestmark = pytest.mark.anyio

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
QUICK = {"OTEL_BSP_SCHEDULE_DELAY": "50"}


@dataclass(frozen=True)
class Span:
    service: str
    name: str
    trace: str
    id: str
    parent: str
    failed: bool
    attributes: dict[str, str]


@dataclass
class Collector:
    """An HTTP server that takes OTLP, as a real collector does."""

    port: int
    spans: list[Span] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def environ(self) -> dict[str, str]:
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}", **QUICK}

    def take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        with self.changed:
            for resource in request.resource_spans:
                service = texts(resource.resource.attributes)["service.name"]
                for scope in resource.scope_spans:
                    self.spans += [read(service, span) for span in scope.spans]
            self.changed.notify_all()

    def find(self, service: str, name: str) -> Span:
        """The span of that service with that name, as soon as it has come."""

        def found() -> list[Span]:
            return [s for s in self.spans if (s.service, s.name) == (service, name)]

        with self.changed:
            assert self.changed.wait_for(found, PATIENCE), self.spans
            return found()[-1]


def read(service: str, span: Any) -> Span:
    return Span(
        service,
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.status.code == 2,
        texts(span.attributes),
    )


def texts(attributes: Any) -> dict[str, str]:
    return {pair.key: pair.value.string_value for pair in attributes}


@contextmanager
def collecting() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers["Content-Encoding"] == "gzip":
                body = gzip.decompress(body)
            collector.take(body)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(server.server_port)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join(PATIENCE)


def test_a_call_is_one_trace_from_the_client_to_the_server(fleet: Fleet) -> None:
    with collecting() as collector:
        fleet.add("probe", PROBE, env=QUICK)
        fleet.launch(env=collector.environ)
        url = f"http://127.0.0.1:{fleet.gateway['port']}/mcp"
        rpc(url, fleet.token(), "tools/call", traced("probe_whoami"), PATIENCE)
        at_gateway = collector.find("mcpcp-gateway", "tools/call whoami")
        at_server = collector.find("probe", "tools/call whoami")
        assert (at_gateway.trace, at_gateway.parent) == (TRACE, PARENT)
        assert (at_server.trace, at_server.parent) == (TRACE, at_gateway.id)
        assert at_gateway.attributes["gen_ai.tool.name"] == "whoami"
        assert at_gateway.attributes["mcpcp.server"] == "probe"
        assert at_gateway.attributes["mcpcp.request"]
        assert not at_gateway.failed
        rpc(url, fleet.token(), "tools/call", traced("probe_crash"), PATIENCE)
        failed = collector.find("mcpcp-gateway", "tools/call crash")
        assert failed.failed
        assert failed.attributes["error.type"] == "error"
        assert "secret" not in str(failed)


def traced(tool: str) -> dict[str, Any]:
    return {"name": tool, "arguments": {}, "_meta": {"traceparent": TRACEPARENT}}


async def test_without_an_endpoint_a_caller_s_context_passes_untouched(fresh: Gateway) -> None:
    fresh.add_raw("raw")
    fresh.start()
    body = modern("tools/call", call("raw_seen") | {"_meta": {"traceparent": TRACEPARENT}})
    async with fresh.http() as http:
        answer = (await http.post("/mcp", json=body, headers=modern_headers(body))).json()
    assert answer["result"]["structuredContent"]["_meta"]["traceparent"] == TRACEPARENT


@pytest.mark.parametrize("given", ["", "no context", 5, None, ["x"]])
async def test_a_context_that_is_none_begins_a_trace(fresh: Gateway, given: object) -> None:
    with collecting() as collector:
        fresh.add_raw("raw")
        fresh.environ |= collector.environ
        fresh.start()
        body = modern("tools/call", call("raw_seen") | {"_meta": {"traceparent": given}})
        async with fresh.http() as http:
            answer = (await http.post("/mcp", json=body, headers=modern_headers(body))).json()
        sent = answer["result"]["structuredContent"]["_meta"]["traceparent"]
        span = collector.find("mcpcp-gateway", "tools/call seen")
    assert sent.startswith(f"00-{span.trace}-{span.id}-")
    assert span.parent == ""


def test_what_is_left_is_sent_at_the_end(fresh: Gateway) -> None:
    with collecting() as collector:
        fresh.add_raw("raw")
        fresh.environ |= {**collector.environ, "OTEL_BSP_SCHEDULE_DELAY": "600000"}
        fresh.start()
        rpc(fresh.url(), fresh.token(), "tools/call", traced("raw_echo"), PATIENCE)
        assert not collector.spans
        assert fresh.stop() == 0
        assert collector.find("mcpcp-gateway", "tools/call echo").trace == TRACE


def test_a_collector_that_is_away_holds_up_no_call_and_no_stop(
    fresh: Gateway, free_port: Any
) -> None:
    fresh.add_raw("raw")
    fresh.environ |= Collector(free_port()).environ
    fresh.start()
    for _ in range(20):
        rpc(fresh.url(), fresh.token(), "tools/call", traced("raw_pid"), PATIENCE)
    assert fresh.stop() == 0


def test_without_an_endpoint_nothing_of_opentelemetry_is_imported() -> None:
    program = (
        "import sys, mcpcp.service, mcpcp.frontends.http; from mcpcp.tracing import open_tracing;"
        " open_tracing({}); print([m for m in sys.modules if m.startswith('opentelemetry')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert done.stdout.strip() == "[]"
