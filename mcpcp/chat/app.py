"""The chat service over HTTP: its own API, OpenAI's, and a page for people.

It is served as the gateway's frontend is. Callers show an agent's token, which is
the gateway's to judge; without one they are the service's own agent, where the config allows it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final

from mcpcp import requestid, tracecontext
from mcpcp.chat import chatform, openaiform, openapi
from mcpcp.chat.dependencies import Dependencies
from mcpcp.chat.edge import (
    CallerLeft,
    EventStream,
    Writer,
    json_body,
    outcome,
    send_error,
    until_stopping,
    while_connected,
)
from mcpcp.chat.llm import Llm
from mcpcp.chat.mcpclient import McpClient
from mcpcp.chat.pages import Pages
from mcpcp.chat.runner import Event, Result, Runner
from mcpcp.chat.runner import Request as ChatRequest
from mcpcp.chat.spans import Telemetry
from mcpcp.config import ChatConfig
from mcpcp.errors import McpcpError, ModelError, RequestError, TokenError
from mcpcp.frontends.guard import HostGuard
from mcpcp.frontends.requests import Reply, Request
from mcpcp.jsonrpc import encode
from mcpcp.scraping import REFUSAL

logger = logging.getLogger(__name__)

Handler = Callable[[Request, Reply], Coroutine[Any, Any, None]]

_METRICS_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"


class ChatApp:
    """The application; `own_token` gives the token of the service's own agent."""

    def __init__(
        self, config: ChatConfig, host: str, llm: Llm, gateway: McpClient,
        own_token: Callable[[], str], telemetry: Telemetry,
    ) -> None:  # fmt: skip
        self._config = config
        self._llm = llm
        self._gateway = gateway
        self._own_token = own_token
        self._metrics = telemetry.metrics
        self._spans = telemetry.spans
        self._runner = Runner(llm, gateway, config, telemetry)
        self._dependencies = Dependencies(llm, gateway, own_token)
        self._stopping = asyncio.Event()
        self._guard = HostGuard("chat", lambda: (host, config))
        pages = Pages(llm.settings, config)
        self._routes: dict[str, dict[str, Handler]] = {
            **{path: {"GET": page} for path, page in pages.handlers.items()},
            "/health": {"GET": self._health},
            "/ready": {"GET": self._ready},
            "/metrics": {"GET": self._show_metrics},
            "/tools": {"GET": self._tools},
            "/execute": {"POST": self._execute},
            "/chat": {"POST": self._chat},
            "/v1/models": {"GET": self._models},
            "/v1/chat/completions": {"POST": self._completions},
        }

    def cut_off(self) -> None:
        """End what is under way: callers are told, models and tools are let go."""
        self._stopping.set()

    async def __call__(self, request: Request, reply: Reply) -> None:
        """One HTTP request."""
        reply.add_header(requestid.HEADER, requestid.begin(request.header(requestid.HEADER)))
        tracecontext.begin(request.header)
        try:
            await self._route(request, reply)
        except McpcpError as error:
            if not reply.begun:
                send_error(reply, error)
        except CallerLeft:
            pass
        except Exception:
            logger.exception("%s %s failed", request.method, request.path)
            if not reply.begun:
                text = "Internal error: the chat service's log has the details"
                send_error(reply, McpcpError(text))

    async def _route(self, request: Request, reply: Reply) -> None:
        refusal = self._guard.refuse(request)
        if refusal is not None:
            raise RequestError(refusal, 403)
        methods = self._routes.get(request.path)
        if methods is None:
            raise RequestError(f"there is no {request.path[:200]}: see /docs", 404)
        handler = methods.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            raise RequestError(f"{request.path} takes {', '.join(methods)}: see /docs", 405)
        if request.method != "POST":
            await handler(request, reply)
            return
        with self._spans.request(request.path):
            await handler(request, reply)

    def _token(self, request: Request) -> str:
        """The token that a request is made with; the gateway says whether it is good."""
        token = request.bearer
        if token:
            return token
        if token is None and self._config.anonymous:
            return self._own_token()
        raise TokenError(
            "missing", "show an agent's token as `Authorization: Bearer TOKEN`; to make one:"
            " mcpcp token issue NAME"
        )  # fmt: skip

    # What anybody may ask.

    async def _health(self, _: Request, reply: Reply) -> None:
        reply.json(200, encode({"status": "ok", "name": "chat", "pid": os.getpid()}))

    async def _ready(self, _: Request, reply: Reply) -> None:
        seen = await self._dependencies.look()
        ready = all(state["state"] == "ready" for state in seen.values())
        body = {"status": "ready" if ready else "not_ready", "dependencies": seen}
        reply.json(200 if ready else 503, encode(body))

    async def _show_metrics(self, request: Request, reply: Reply) -> None:
        if not self._metrics.may_read(request.bearer):
            raise TokenError("missing", REFUSAL)
        reply.send(200, self._metrics.render(), _METRICS_TYPE)

    # What needs a token.

    async def _tools(self, request: Request, reply: Reply) -> None:
        tools = await self._gateway.tools(self._token(request))
        reply.json(200, encode({"tools": tools}))

    async def _execute(self, request: Request, reply: Reply) -> None:
        token = self._token(request)
        body = await json_body(request, openapi.EXECUTE_REQUEST)
        name, arguments = body["name"], body.get("arguments", {})
        work = until_stopping(self._stopping, self._runner.execute(token, name, arguments))
        record = await while_connected(request, work)
        if record is None:
            raise RequestError(f"there is no tool {name[:200]!r} here: GET /tools lists them", 404)
        reply.json(200, encode(chatform.record_of(record)))

    async def _chat(self, request: Request, reply: Reply) -> None:
        token = self._token(request)
        body = await json_body(request, openapi.CHAT_REQUEST)
        wanted = chatform.request_of(body)
        if body.get("stream"):
            await self._stream(request, reply, wanted, token, chatform.ChatEvents())
            return
        result = await self._answer(request, wanted, token)
        reply.json(200, encode(chatform.answer_of(result)))

    async def _models(self, request: Request, reply: Reply) -> None:
        await self._gateway.tools(self._token(request))
        names = [self._llm.settings.model]
        with contextlib.suppress(ModelError):
            names += [n for n in await self._llm.models() if n not in names]
        reply.json(200, encode(openaiform.models_of(names)))

    async def _completions(self, request: Request, reply: Reply) -> None:
        token = self._token(request)
        body = await json_body(request, openapi.COMPLETION_REQUEST)
        wanted = openaiform.request_of(body)
        if body.get("stream"):
            with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
            chunks = openaiform.CompletionChunks(wanted.model or self._runner.model, with_usage)
            await self._stream(request, reply, wanted, token, chunks)
            return
        result = await self._answer(request, wanted, token)
        reply.json(200, encode(openaiform.completion_of(result)))

    # Both forms.

    async def _answer(self, request: Request, wanted: ChatRequest, token: str) -> Result:
        with self._counted():
            work = until_stopping(self._stopping, self._runner.run(wanted, token, _unseen))
            return await while_connected(request, work)

    async def _stream(
        self, request: Request, reply: Reply, wanted: ChatRequest, token: str, writer: Writer
    ) -> None:
        stream = EventStream(reply, writer)
        with self._counted():
            work = until_stopping(self._stopping, self._runner.run(wanted, token, stream.emit))
            await while_connected(request, stream.run(work))

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        """Count a request to the model by how it ends."""
        ended = "error"
        self._metrics.in_flight.inc()
        try:
            yield
            ended = "ok"
        except CallerLeft:
            ended = "cancelled"
            raise
        except McpcpError as error:
            ended = outcome(error)
            raise
        finally:
            self._metrics.in_flight.dec()
            self._metrics.finished(ended)


async def _unseen(_: Event) -> None:
    """For callers who want the answer only."""
