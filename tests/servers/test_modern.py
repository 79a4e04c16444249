"""The short way of the modern era's calls answers as the SDK's own way does."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import anyio
import anyio.lowlevel
import pytest
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS
from pydantic import BaseModel, Field
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from servers.plumbing import modern
from servers.plumbing.modern import modern_calls
from tests.modern import META, MODERN
from tests.servers.harness import DEADLINE

pytestmark = pytest.mark.anyio

PREFIX = "io.modelcontextprotocol/"


class Shelf(BaseModel):
    things: list[str]
    owner: str | None = None


async def echo(message: str) -> str:
    return message


async def number(value: int) -> int:
    return value


async def half(value: float) -> float:
    return value / 2


async def shelf() -> Shelf:
    return Shelf(things=["Teetasse", "茶碗", "line\nend"])


async def broken_text() -> dict[str, str]:
    return {"half": "\ud83c"}


async def refuse() -> str:
    raise ToolError("not today")


async def crash() -> str:
    raise RuntimeError("a secret")


async def protocol_error(code: int) -> str:
    raise MCPError(code, "said the tool", {"why": 1})


async def steps(ctx: Context[Any, Any]) -> str:
    for step in range(3):
        await ctx.report_progress(step, 3, f"step {step}")
    return "walked"


async def chorus(ctx: Context[Any, Any]) -> str:
    async with anyio.create_task_group() as singers:
        for number in range(20):
            singers.start_soon(ctx.report_progress, number)
    return "sung"


async def faltering(ctx: Context[Any, Any]) -> str:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await ctx.report_progress(1)
    return "said nothing"


async def routed(
    region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})],
) -> str:
    return region


@dataclass
class Patient:
    """A tool that waits, and what it notices meanwhile."""

    began: anyio.Event = field(default_factory=anyio.Event)
    go_on: anyio.Event = field(default_factory=anyio.Event)
    cancelled: bool = False

    async def wait(self) -> str:
        self.began.set()
        try:
            await self.go_on.wait()
        except BaseException:
            self.cancelled = True
            raise
        return "waited"


TOOLS: tuple[Callable[..., Any], ...] = (
    echo,
    number,
    half,
    shelf,
    broken_text,
    refuse,
    crash,
    protocol_error,
    steps,
    chorus,
    faltering,
    routed,
)


@dataclass
class Ways:
    """The way under test, the SDK's own, and how often the first left a request to the second."""

    short: ASGIApp
    own: ASGIApp
    left: list[Scope]


@asynccontextmanager
async def ways(*more: Callable[..., Any]) -> AsyncIterator[Ways]:
    server: MCPServer[Any] = MCPServer("plain")
    for tool in (*TOOLS, *more):
        server.add_tool(tool)
    unchecked = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    app = server.streamable_http_app(transport_security=unchecked)
    left: list[Scope] = []

    async def noted(scope: Scope, receive: Receive, send: Send) -> None:
        left.append(scope)
        await app(scope, receive, send)

    core = server.session_manager.app
    async with app.router.lifespan_context(app), modern_calls(noted, core) as short:
        yield Ways(short, app, left)


@dataclass
class Request:
    """A call as a client of the modern era posts it, and what is odd about it."""

    tool: str | None = "echo"
    arguments: Any = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=lambda: META)
    headers: Mapping[str, str | None] = field(default_factory=dict)
    twice: str | None = None
    body: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    path: str = "/mcp"

    def content(self) -> bytes:
        if self.body is not None:
            return self.body.encode()
        named = {} if self.tool is None else {"name": self.tool}
        params = {**named, "arguments": self.arguments, "_meta": self.meta}
        message = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}
        return json.dumps({**message, **self.more}).encode()

    def scope(self) -> Scope:
        headers: dict[str, str | None] = {
            "host": "127.0.0.1",
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": MODERN,
            "mcp-method": "tools/call",
            "mcp-name": self.tool,
            "content-length": str(len(self.content())),
            **self.headers,
        }
        pairs = [
            (name.encode(), value.encode("latin-1"))
            for name, value in headers.items()
            if value is not None
        ]
        if self.twice:
            pairs.append((self.twice.encode(), str(headers[self.twice]).encode()))
        return {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "path": self.path,
            "raw_path": self.path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": pairs,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "state": {},
        }


@dataclass
class Visit:
    """One request on its way, and what was answered so far."""

    request: Request
    gone: anyio.Event = field(default_factory=anyio.Event)
    sent: list[Message] = field(default_factory=list)
    seen: Callable[[bytes], None] = lambda _: None

    async def make(self, way: ASGIApp) -> None:
        content = self.request.content()
        parts = [content[:10], content[10:]]

        async def receive() -> Message:
            if parts:
                return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}
            await self.gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            await anyio.lowlevel.checkpoint()  # as for a client that is slow to read
            self.sent.append(message)
            self.seen(message.get("body", b""))

        with anyio.fail_after(DEADLINE):
            await way(self.request.scope(), receive, send)

    def answer(self) -> tuple[int, str, list[Any]]:
        """Status, media type, and the messages in order."""
        head, *rest = self.sent
        assert not rest[-1].get("more_body")
        body = b"".join(part["body"] for part in rest).decode()
        media = dict(head["headers"]).get(b"content-type", b"").decode()
        if media == "text/event-stream":
            lines = [line[6:] for line in body.split("\r\n") if line.startswith("data: ")]
            return head["status"], media, [json.loads(line) for line in lines]
        return head["status"], media, [json.loads(body)] if media == "application/json" else [body]


PLAIN = {
    "a text": Request(arguments={"message": "grüß dich 茶"}),
    "a large number": Request("number", {"value": 2**70}),
    "a number that JSON has not": Request("half", {"value": "Infinity"}),
    "structured": Request("shelf"),
    "half a character in the result": Request("broken_text"),
    "refused": Request("refuse"),
    "a crash": Request("crash"),
    "an error with a status": Request("protocol_error", {"code": INVALID_PARAMS}),
    "an error with none": Request("protocol_error", {"code": -32050}),
    "wrong arguments": Request("number", {"value": "many"}),
    "arguments that are no object": Request(arguments=[1]),
    "no arguments": Request("shelf", None),
    "a text for an id": Request(arguments={"message": "a"}, more={"id": "seven"}),
    "progress that nobody asked for": Request("steps"),
    "progress": Request("steps", meta={**META, "progressToken": "t"}),
    "a header for no argument": Request(
        arguments={"message": "a"}, headers={"mcp-param-region": "x"}
    ),
    "a state that nobody made": Request(
        more={
            "params": {
                "name": "echo",
                "arguments": {"message": "a"},
                "requestState": "forged",
                "_meta": META,
            }
        }
    ),
    "progress that was given up": Request("faltering", meta={**META, "progressToken": "t"}),
    "nobody's name": Request(
        arguments={"message": "a"}, meta={k: v for k, v in META.items() if "Info" not in k}
    ),
    "capabilities that are none": Request(
        arguments={"message": "a"}, meta={**META, f"{PREFIX}clientCapabilities": 3}
    ),
}

OTHERS = {
    "an unknown tool": Request("nothing"),
    "a tool without a name": Request(None),
    "a name of another tool": Request(arguments={"message": "a"}, headers={"mcp-name": "crash"}),
    "another method in the header": Request(headers={"mcp-method": "tools/list"}),
    "another method in the body": Request(more={"method": "tools/list"}),
    "another version in the body": Request(meta={**META, f"{PREFIX}protocolVersion": "2031-01-01"}),
    "an unknown version": Request(headers={"mcp-protocol-version": "2031-01-01"}),
    "no envelope": Request(meta={}),
    "a header twice": Request(arguments={"message": "a"}, twice="mcp-method"),
    "another order of what is accepted": Request(
        arguments={"message": "a"}, headers={"accept": "text/event-stream, application/json"}
    ),
    "no stream accepted": Request(headers={"accept": "application/json"}),
    "a type with a charset": Request(
        arguments={"message": "a"}, headers={"content-type": "application/json; charset=utf-8"}
    ),
    "another type": Request(headers={"content-type": "text/plain"}),
    "no length": Request(arguments={"message": "a"}, headers={"content-length": None}),
    "a length that is no number": Request(
        arguments={"message": "a"}, headers={"content-length": "+5"}
    ),
    "a large body": Request(arguments={"message": "a" * 1_100_000}),
    "too large a body": Request(headers={"content-length": "9999999999"}),
    "no JSON": Request(body="{"),
    "nothing": Request(body=""),
    "a batch": Request(body="[]"),
    "a text": Request(body='"tools/call"'),
    "depth": Request(body="[" * 100_000),
    "half a character": Request(arguments={"message": "\ud83c"}),
    "a fraction for an id": Request(more={"id": 1.5}),
    "a notification": Request(
        body=json.dumps({"jsonrpc": "2.0", "method": "tools/call", "params": {"_meta": META}})
    ),
    "params that are no object": Request(more={"params": [1]}),
    "an argument with its header": Request(
        "routed", {"region": "eu"}, headers={"mcp-param-region": "eu"}
    ),
    "an argument without its header": Request("routed", {"region": "eu"}),
}


async def left_of_a_visit_both_ways(request: Request) -> int:
    """How often the short way left it to the SDK's app; either way the answer is the same."""
    async with ways() as both:
        short, own = Visit(request), Visit(request)
        await short.make(both.short)
        await own.make(both.own)
        assert short.answer() == own.answer()
        return len(both.left)


@pytest.mark.parametrize("name", PLAIN)
async def test_a_plain_call_is_answered_as_the_sdk_does_and_not_by_its_app(name: str) -> None:
    assert await left_of_a_visit_both_ways(PLAIN[name]) == 0


@pytest.mark.parametrize("name", OTHERS)
async def test_everything_else_is_left_to_the_sdk_s_app_as_it_came(name: str) -> None:
    assert await left_of_a_visit_both_ways(OTHERS[name]) == 1


async def test_a_call_whose_client_goes_is_cancelled() -> None:
    patient = Patient()
    async with ways(patient.wait) as both:
        visit = Visit(Request("wait"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(visit.make, both.short)
            await patient.began.wait()
            visit.gone.set()
        assert (patient.cancelled, visit.sent, both.left) == (True, [], [])


async def test_a_client_that_goes_before_its_request_is_whole_is_not_answered() -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    async with ways() as both:
        await both.short(Request().scope(), receive, send)
        assert (sent, both.left) == ([], [])


async def test_a_long_call_shows_signs_of_life_and_then_its_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(modern, "_QUICK_SECONDS", 0.0)
    monkeypatch.setattr(modern, "_PING_SECONDS", 0.01)
    patient = Patient()

    def seen(part: bytes) -> None:
        if part == b": ping\r\n\r\n":
            patient.go_on.set()

    async with ways(patient.wait) as both:
        visit = Visit(Request("wait"), seen=seen)
        await visit.make(both.short)
    status, media, [message] = visit.answer()
    assert (status, media) == (200, "text/event-stream")
    assert message["result"]["structuredContent"] == {"result": "waited"}


async def test_a_tool_that_tells_from_several_tasks_at_once_is_heard_whole() -> None:
    async with ways() as both:
        visit = Visit(Request("chorus", meta={**META, "progressToken": 1}))
        await visit.make(both.short)
    _, _, messages = visit.answer()
    told = [message["params"]["progress"] for message in messages[:-1]]
    assert sorted(told) == list(range(20))
    assert messages[-1]["result"]["structuredContent"] == {"result": "sung"}
