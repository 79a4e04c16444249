"""What the HTTP edge shares: bodies that are checked, errors as answers, callers that leave."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, Protocol, TypeVar

from mcpcp.chat.runner import Event, Result
from mcpcp.errors import (
    DeadlineExceeded,
    McpcpError,
    ModelError,
    Refused,
    RequestError,
    TokenError,
    Unavailable,
)
from mcpcp.frontends.requests import PING_EVERY, Reply, Request, TooLarge
from mcpcp.jsonrpc import LIMITED, RpcError, decode, encode

T = TypeVar("T")

_MODEL_STATUS: Final = {"unreachable": 503, "stalled": 504, "rate_limited": 429}
_LONGEST_SHOWN: Final = 300


class CallerLeft(Exception):
    """The caller has closed the connection: nobody waits for the answer."""


async def json_body(request: Request, schema: dict[str, Any]) -> dict[str, Any]:
    """The body, which meets `schema`; raises RequestError that says what does not."""
    kind = (request.header(b"content-type") or "").partition(";")[0].strip().lower()
    if kind != "application/json":  # what a web page may send to another origin unasked is none
        raise RequestError("send the body as Content-Type: application/json", 415)
    try:
        body = decode(await request.body())
    except RpcError as error:
        raise RequestError(str(error)) from None
    from jsonschema import Draft202012Validator

    for wrong in Draft202012Validator(schema).iter_errors(body):
        raise RequestError(f"{wrong.json_path}: {wrong.message}"[:_LONGEST_SHOWN])
    if not isinstance(body, dict):
        raise RequestError("the body must be one JSON object")
    return body


def described(error: McpcpError) -> tuple[int, dict[str, Any]]:
    """The HTTP status and the body of an error, in the form that OpenAI's clients know."""
    status, kind = _status(error), _kind(error)
    return status, {"error": {"message": str(error), "type": kind, "code": status}}


def _status(error: McpcpError) -> int:
    if isinstance(error, RequestError):
        return error.status
    if isinstance(error, ModelError):
        return _MODEL_STATUS.get(error.kind, 502)
    if isinstance(error, RpcError):
        return 429 if error.error["code"] == LIMITED else 502
    return next((status for known, status in _STATUS if isinstance(error, known)), 500)


_STATUS: Final = (
    (TokenError, 401),
    (TooLarge, 413),
    (Refused, 403),
    (DeadlineExceeded, 504),
    (Unavailable, 503),
)


def _kind(error: McpcpError) -> str:
    """A short word for programs and metrics."""
    if isinstance(error, ModelError):
        return f"model_{error.kind}"
    for known, word in (
        (TokenError, "unauthorized"),
        (RequestError, "invalid_request"),
        (TooLarge, "invalid_request"),
        (DeadlineExceeded, "timeout"),
        (Unavailable, "gateway_unavailable"),
    ):
        if isinstance(error, known):
            return word
    return "gateway_error"


def outcome(error: McpcpError) -> str:
    """The word under which a request that ended so is counted."""
    return _kind(error)


def ended(error: BaseException) -> str:
    """The word under which a span that ended so is found."""
    if isinstance(error, McpcpError):
        return outcome(error)
    left = isinstance(error, CallerLeft | asyncio.CancelledError)
    return "cancelled" if left else "internal"


def send_error(reply: Reply, error: McpcpError) -> None:
    """Answer with an error."""
    status, body = described(error)
    headers = [(b"www-authenticate", b'Bearer realm="mcpcp-chat"')] if status == 401 else []
    retry_after = getattr(error, "retry_after", None)
    if status == 429 and retry_after:
        headers.append((b"retry-after", str(int(retry_after) + 1).encode()))
    reply.json(status, encode(body), headers)


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns or raises; it is cancelled, and CallerLeft raised, if the caller leaves.

    The request's body must have been read.
    """
    return await _raced(work, request.gone(), CallerLeft())


async def until_stopping(stopping: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns or raises; it is cancelled, and Unavailable raised, when we stop."""
    text = "the chat service is stopping: ask again in a moment"
    return await _raced(work, stopping.wait(), Unavailable(text))


async def _raced(
    work: Coroutine[Any, Any, T], other: Coroutine[Any, Any, Any], lost: Exception
) -> T:
    async with asyncio.TaskGroup() as tasks:
        working = tasks.create_task(_caught(work))
        waiting = tasks.create_task(other)
        await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
        finished = working.done()
        working.cancel()
        waiting.cancel()
    if not finished:
        raise lost
    ended = working.result()
    if isinstance(ended, McpcpError):
        raise ended
    return ended


async def _caught(work: Coroutine[Any, Any, T]) -> T | McpcpError:
    try:
        return await work
    except McpcpError as error:
        return error


class Writer(Protocol):
    """How events are written for one kind of client."""

    def event(self, event: Event) -> bytes:
        """What is sent for an event; nothing where such clients don't know it."""

    def done(self, result: Result) -> bytes:
        """The end of the stream."""

    def failed(self, error: McpcpError) -> bytes:
        """The end of a stream that broke off."""


class EventStream:
    """An answer as server-sent events: begun with the first, so that early errors have a status.

    A reader that is slow slows the answer down; its deadline is the request's own.
    """

    def __init__(self, reply: Reply, writer: Writer) -> None:
        self._reply = reply
        self._writer = writer
        self._turn = asyncio.Lock()
        self.begun = False

    async def emit(self, event: Event) -> None:
        """Send an event."""
        data = self._writer.event(event)
        if data:
            await self._send(data)

    async def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Do the work, and send pings and the end; raises McpcpError, sent where it was begun."""
        async with asyncio.TaskGroup() as tasks:
            pinging = tasks.create_task(self._ping())
            try:
                ended = await _caught(work)
            finally:
                pinging.cancel()
        if isinstance(ended, McpcpError):
            if self.begun:
                await self._end(self._writer.failed(ended))
            raise ended
        await self._end(self._writer.done(ended))
        return ended

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(PING_EVERY)
            await self._send(b": ping\n\n")

    async def _send(self, data: bytes) -> None:
        async with self._turn:
            if not self.begun:
                self.begun = True
                self._reply.start_stream()
            await self._reply.stream(data)

    async def _end(self, data: bytes) -> None:
        await self._send(data)
        self._reply.end_stream()
