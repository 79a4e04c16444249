"""The answer to one call over HTTP: JSON, or an event stream from the first notification on.

Above: `modern`, which runs the call. Below: ASGI's `send`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final

import anyio
import orjson
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.inbound import ERROR_CODE_HTTP_STATUS
from mcp.shared.jsonrpc_dispatcher import progress_token_from_params
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types import ErrorData, RequestId
from starlette.requests import Request
from starlette.types import Send

_JSON: Final = (b"content-type", b"application/json")
_STREAM: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"connection", b"keep-alive"),
    (b"x-accel-buffering", b"no"),
)
_PING: Final = b": ping\r\n\r\n"


class Exchange:
    """A request as the SDK's `DispatchContext`, and the one way back to who made it.

    Nothing can be asked of a client of the modern era in the middle of a call.
    """

    can_send_request: Final = False

    def __init__(
        self, request_id: RequestId, params: Mapping[str, Any], request: Request, send: Send
    ) -> None:
        self.request_id: Final = request_id
        self.transport: Final = TransportContext(
            kind="streamable-http", can_send_request=False, headers=request.headers
        )
        self.message_metadata: Final = ServerMessageMetadata(request_context=request)
        self._params = params
        self._send = send
        self._turns = asyncio.Lock()  # a tool may notify from several tasks
        self._streaming = False
        self._ended = False

    @cached_property
    def cancel_requested(self) -> anyio.Event:
        """Never set: who cancels a call of this era ends its connection."""
        return anyio.Event()

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        """Raises NoBackChannelError."""
        raise NoBackChannelError(method)

    async def notify(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> None:
        """Send a notification now; the answer follows on the same stream."""
        told = {} if params is None else {"params": params}
        await self._stream(_event({"jsonrpc": "2.0", "method": method, **told}))

    async def progress(
        self, progress: float, total: float | None = None, message: str | None = None
    ) -> None:
        """Tell of progress, if the client asked for that."""
        token = progress_token_from_params(self._params)
        if token is not None:
            told = {"progressToken": token, "progress": progress, "total": total}
            known = {**told, "message": message}
            await self.notify(
                "notifications/progress", {k: v for k, v in known.items() if v is not None}
            )

    async def ping(self) -> None:
        """Show whoever is on the way to the client that the connection is in use."""
        await self._stream(_PING)

    async def succeed(self, result: Mapping[str, Any]) -> None:
        """Answer; nothing is sent after that."""
        await self._end({"jsonrpc": "2.0", "id": self.request_id, "result": result}, 200)

    async def fail(self, error: ErrorData) -> None:
        """Answer with an error; nothing is sent after that."""
        said = error.model_dump(mode="json", by_alias=True, exclude_none=True)
        status = ERROR_CODE_HTTP_STATUS.get(error.code, 200)
        await self._end({"jsonrpc": "2.0", "id": self.request_id, "error": said}, status)

    async def _stream(self, part: bytes) -> None:
        async with self._turns:
            if self._ended:
                return
            if not self._streaming:
                await self._start(200, *_STREAM)
                self._streaming = True  # and not before: who tells may be cancelled
            await self._body(part, more=True)

    async def _end(self, message: Mapping[str, Any], status: int) -> None:
        async with self._turns:
            self._ended = True
            if self._streaming:
                await self._body(_event(message), more=False)
                return
            body = encode(message)
            await self._start(status, _JSON, (b"content-length", b"%d" % len(body)))
            await self._body(body, more=False)

    async def _start(self, status: int, *headers: tuple[bytes, bytes]) -> None:
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _body(self, part: bytes, *, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": part, "more_body": more})


def encode(message: Mapping[str, Any]) -> bytes:
    """As JSON: by the slower way what the fast one can't write, large integers and surrogates."""
    try:
        return orjson.dumps(message)
    except TypeError:
        return json.dumps(message, separators=(",", ":")).encode()


def _event(message: Mapping[str, Any]) -> bytes:
    return b"event: message\r\ndata: " + encode(message) + b"\r\n\r\n"
