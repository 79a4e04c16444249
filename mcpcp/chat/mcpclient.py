"""The gateway as an MCP client sees it: the modern era over HTTP, one POST a request, no session.

Each request carries its caller's token, so that one client serves all callers.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlsplit

from mcpcp import __version__, requestid
from mcpcp.backends.addresses import addresses_of
from mcpcp.backends.events import events
from mcpcp.backends.http import HttpClient, Response
from mcpcp.chat.spans import Spans
from mcpcp.errors import (
    DeadlineExceeded,
    ProtocolError,
    TokenError,
    Unavailable,
)
from mcpcp.jsonrpc import Message, RpcError, decode, encode
from mcpcp.paramheaders import declared, encode_header, made
from mcpcp.patience import patience
from mcpcp.protocol import LATEST_MODERN, META_CLIENT_CAPABILITIES, META_CLIENT_INFO, META_VERSION

LIST_TIMEOUT: Final = 30.0
MOST_PAGES: Final = 100
_INFO: Final = {"name": "mcpcp-chat", "version": __version__}

OnProgress = Callable[[Message], Awaitable[None]]


async def ignore(_: Message) -> None:
    """For calls whose progress nobody watches."""


class McpClient:
    """Requests to one gateway, each with a token of its own."""

    def __init__(self, url: str, spans: Spans) -> None:
        parts = urlsplit(url)
        self.url = url
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._client = HttpClient(url, {}, addresses_of(url))
        self._spans = spans
        self._ids = itertools.count(1)

    def close(self) -> None:
        """Close every connection."""
        self._client.close()

    async def tools(self, token: str, timeout: float = LIST_TIMEOUT) -> list[Message]:
        """The definitions of the tools that the token allows.

        Raises TokenError, Unavailable, DeadlineExceeded, ProtocolError or RpcError.
        """
        tools: list[Message] = []
        cursor = None
        for _ in range(MOST_PAGES):
            params: Message = {} if cursor is None else {"cursor": cursor}
            result = await self._request(token, "tools/list", params, timeout)
            listed = result.get("tools")
            tools += [t for t in listed if isinstance(t, dict)] if isinstance(listed, list) else []
            cursor = result.get("nextCursor")
            if not isinstance(cursor, str):
                return tools
        raise ProtocolError(f"the gateway lists tools on more than {MOST_PAGES} pages")

    async def call(
        self,
        token: str,
        tool: Message,
        arguments: Message,
        timeout: float,
        on_progress: OnProgress = ignore,
    ) -> Message:
        """The result of calling `tool`, a definition of `tools`; cancelled with its caller.

        `timeout` is seconds in all, progress or not. Raises what `tools` does.
        """
        params = {"name": tool["name"], "arguments": arguments}
        mirrored = made(declared(tool.get("inputSchema")), arguments)
        result = await self._request(token, "tools/call", params, timeout, on_progress, mirrored)
        if result.get("resultType") == "input_required":
            raise ProtocolError("the tool asks a question back, which can't be answered here")
        return result

    async def _request(
        self,
        token: str,
        method: str,
        params: Message,
        timeout: float,
        on_progress: OnProgress = ignore,
        mirrored: dict[str, str] | None = None,
    ) -> Message:
        number = next(self._ids)
        body = _body(number, method, params, self._spans.carried())
        headers = {**_headers(token, method, params), **(mirrored or {})}
        try:
            async with patience(timeout):
                response = await self._client.request("POST", self._target, headers, encode(body))
                try:
                    return _result(await self._answer(response, number, on_progress))
                finally:
                    # Where the answer is not whole, this ends the stream: so a call is cancelled.
                    response.close()
        except TimeoutError:
            raise DeadlineExceeded(f"no answer within {timeout:g} s") from None
        except Unavailable as error:
            raise type(error)(f"the gateway at {self.url} does not answer: {error}") from None

    async def _answer(self, response: Response, number: int, on_progress: OnProgress) -> Message:
        if response.head.status == 401:
            raise TokenError("refused", "the gateway does not accept the token")
        if response.head.content_type != b"text/event-stream":
            return _object(await response.read(), response.head.status)
        async with contextlib.aclosing(events(response)) as stream:
            async for _, data in stream:
                message = _object(data, response.head.status)
                if message.get("method") == "notifications/progress":
                    params = message.get("params")
                    await on_progress(params if isinstance(params, dict) else {})
                elif message.get("id") == number and "method" not in message:
                    return message
        raise Unavailable("it ended the stream before its answer")


def _body(number: int, method: str, params: Message, context: dict[str, str]) -> Message:
    meta = {
        **context,
        META_VERSION: LATEST_MODERN,
        META_CLIENT_INFO: _INFO,
        META_CLIENT_CAPABILITIES: {},
        "progressToken": number,
    }
    params = {**params, "_meta": meta}
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


def _headers(token: str, method: str, params: Message) -> dict[str, str]:
    headers = {
        "authorization": f"Bearer {token}",
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": LATEST_MODERN,
        "mcp-method": method,
        requestid.HEADER.decode(): requestid.current(),
    }
    if "name" in params:
        headers["mcp-name"] = encode_header(params["name"])
    return headers


def _object(data: bytes, status: int) -> Message:
    try:
        value = decode(data)
    except RpcError:
        value = None
    if not isinstance(value, dict):
        raise ProtocolError(f"the gateway answered HTTP {status} and no JSON-RPC message")
    return value


def _result(message: Message) -> Message:
    if "error" in message:
        raise RpcError.of(message["error"])
    result = message.get("result")
    if not isinstance(result, dict):
        raise ProtocolError("the gateway answered neither a result nor an error")
    return result
