"""One request by POST: answered with JSON, or with a stream once there is more to say."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from mcpcp.callers import Caller
from mcpcp.frontends.answers import answer
from mcpcp.frontends.overdue import Overdue
from mcpcp.frontends.replay import EventLog, Outlet
from mcpcp.frontends.requests import PING_EVERY, EventStream, Reply, Request
from mcpcp.gateway import Gateway
from mcpcp.jsonrpc import CONNECTION_CLOSED, METHOD_NOT_FOUND, Message, error_response
from mcpcp.sessions import way_back
from mcpcp.verbatim import pieces

_WATCH_AFTER: Final = 0.05
"""Seconds after which a call is worth a task that watches for its client's leaving."""

STATUS_OF_ERROR: Final = {
    -32700: 400,
    -32600: 400,
    -32602: 400,
    -32020: 400,
    -32021: 400,
    -32022: 400,
    METHOD_NOT_FOUND: 404,
}
"""How the modern era writes errors in HTTP; the legacy era answers 200."""


Headers = Iterable[tuple[bytes, bytes]]


class Patience:
    """What is done for calls that are not answered at once; one for all calls of a frontend."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.brief = Overdue(_WATCH_AFTER)
        self.long = Overdue(PING_EVERY)


class PostedCall:
    """A request from its arrival to its answer.

    Nothing but the call itself costs anything while it is quick and silent; a stream is begun with
    the first notification, or when a proxy might take the silence for the end.
    """

    def __init__(
        self,
        gateway: Gateway,
        reply: Reply,
        tasks: asyncio.TaskGroup,
        patience: Patience,
        log: EventLog | None = None,
    ) -> None:
        self._gateway = gateway
        self._reply = reply
        self._tasks = tasks
        self._patience = patience
        self._headers: Headers = ()
        self._caller: asyncio.Task[object] | None = None
        self._cancelled = False
        self._request: Request
        self._request_id: Any = None
        self._log = log
        self._outlet: Outlet | None = None
        self._writer: asyncio.Task[None]
        self._helpers: list[asyncio.Task[None]] = []

    async def run(
        self, caller: Caller, message: Message, request: Request, headers: Headers = ()
    ) -> None:
        """Answer `message`; in the modern era a client that leaves cancels it."""
        patience = self._patience
        self._caller, self._headers = asyncio.current_task(patience.loop), headers
        self._request, self._request_id = request, message["id"]
        # A client that can take its stream up again is given one before it may need to.
        silence = patience.brief if self._log is not None else patience.long
        silence.add(self._begin_stream)
        if caller.modern:
            patience.brief.add(self._watch)
        try:
            result = await self._outcome(caller, message)
            if self._outlet is None:
                self._send(result, caller.modern)
            else:
                self._outlet.push(result)
                self._outlet.end()
                await self._writer
        finally:
            silence.remove(self._begin_stream)
            if caller.modern:
                patience.brief.remove(self._watch)
            for task in self._helpers:
                task.cancel()

    def cancel(self) -> None:
        """End the call: the server is told, the client gets an error if it still listens."""
        if self._caller is not None and not self._cancelled:
            self._cancelled = True
            self._caller.cancel()

    async def _outcome(self, caller: Caller, message: Message) -> Message:
        try:
            return await answer(self._gateway, caller, message, way_back(caller, self.notify))
        except asyncio.CancelledError:
            if not self._cancelled or self._caller is None:
                raise
            self._caller.uncancel()
            error = {"code": CONNECTION_CLOSED, "message": "Request cancelled"}
            return error_response(message["id"], error)
        finally:
            self._caller = None  # what is answered can't be cancelled any more

    def notify(self, message: Message) -> None:
        """Send something on the call's stream, before its answer."""
        self._begin_stream().push(message)

    def _begin_stream(self) -> Outlet:
        if self._outlet is None:
            self._outlet = Outlet(self._log)
            stream = EventStream()
            if self._log is not None:
                stream.push(self._outlet.prime(self._request_id))
            self._outlet.attach(stream)
            self._writer = self._tasks.create_task(self._write(stream))
            self._helpers.append(self._writer)
        return self._outlet

    async def _write(self, stream: EventStream) -> None:
        self._reply.start_stream(self._headers)
        await stream.write(self._reply)

    def _send(self, result: Message, modern: bool) -> None:
        status = 200
        if modern and "error" in result:
            status = STATUS_OF_ERROR.get(result["error"].get("code"), 200)
        self._reply.json(status, pieces(result), self._headers)

    def _watch(self) -> None:
        self._helpers.append(self._tasks.create_task(self._cancel_when_gone()))

    async def _cancel_when_gone(self) -> None:
        await self._request.gone()
        self.cancel()
