"""A raw-dict JSON-RPC peer: ids, progress, cancellation, deadlines.

Above: `backends.connection` is one conversation with a server. Below: a transport that carries
messages. What a peer does not know it passes on untouched; that is why there are no typed models.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from mcpcp import patience
from mcpcp.errors import DeadlineExceeded, McpcpError, ProtocolError, Unavailable
from mcpcp.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    Message,
    RpcError,
    error_response,
    notification,
    response,
)
from mcpcp.protocol import LISTEN, SESSION_WIDE

logger = logging.getLogger(__name__)

_GRAIN: Final = 0.001
"""Seconds by which a timer may be early."""
MOST_SERVED: Final = 100
"""Requests of one server that may wait for its client at once."""


class Back(Protocol):
    """The way back to the client while one of its requests is under way."""

    def notify(self, message: Message) -> None:
        """Pass on a notification; never waits."""

    async def ask(self, method: str, params: Message) -> Any:
        """Ask the client; its result. Raises RpcError with the client's own error."""


class Inbound(Protocol):
    """What a server says and asks beside its answers."""

    def on_notification(self, message: Message) -> None:
        """A notification that belongs to no request of ours."""

    async def on_request(self, message: Message, back: Back | None) -> Any:
        """A request of the server's own; its result, or RpcError.

        `back` is that of the request which it belongs to, where there is one.
        """


class Transport(Protocol):
    """What carries a peer's messages to the other side."""

    async def send(self, message: Message) -> None:
        """Deliver a request; raises Unavailable where it certainly was not delivered."""

    def send_soon(self, message: Message) -> None:
        """Deliver a notification or an answer when possible; never waits and never raises."""

    def abandon(self, request_id: int) -> None:
        """Nobody waits for this answer any more."""


@dataclass(slots=True)
class _Pending:
    future: asyncio.Future[Any]
    timeout: float
    deadline: float
    back: Back | None
    progress_token: Any
    listens: bool
    asked: int = 0
    sender: asyncio.Task[Any] | None = None
    """Who is sending it right now, for the timer to end that."""
    moved: float = 0.0
    """Seconds by which our own standstills have moved the deadline."""


class Peer:
    """Our end of a conversation with one server: many requests in flight, answers by id.

    `tasks` is where the server's own requests are served; without it they are refused.
    """

    def __init__(
        self, transport: Transport, inbound: Inbound, tasks: asyncio.TaskGroup | None = None
    ) -> None:
        self._transport = transport
        self._inbound = inbound
        self._tasks = tasks
        self._served: dict[Any, asyncio.Task[None]] = {}
        self._pending: dict[int, _Pending] = {}
        self._last_id = 0
        self._last_end = 0.0
        self._closed: str | None = None
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.Handle | None = None
        self._due = math.inf  # of the timer: uvloop's know it only where it is not at once

    @property
    def idle_since(self) -> float | None:
        """The loop time at which the last request ended; None while there is one, either way."""
        return None if self._pending or self._served else self._last_end

    async def request(
        self, method: str, params: Message, timeout: float, back: Back | None = None
    ) -> Any:
        """Send a request and wait for its result, `timeout` seconds from the last sign of progress.

        A `progressToken` in `params["_meta"]` is replaced on the way and restored in what `back`
        gets. Raises RpcError (the server's own error), Unavailable, Interrupted, DeadlineExceeded.
        When the caller is cancelled, or the deadline passes, the server is told.
        """
        if self._closed is not None:
            raise Unavailable(self._closed)
        loop = self._loop
        self._last_id = request_id = self._last_id + 1
        deadline = loop.time() + timeout
        pending = _Pending(loop.create_future(), timeout, deadline, back, None, method == LISTEN)
        meta = params.get("_meta")
        if meta is not None and "progressToken" in meta:
            pending.progress_token = meta["progressToken"]
            params = {**params, "_meta": {**meta, "progressToken": request_id}}
        self._pending[request_id] = pending
        if deadline < self._due:
            self._set_timer(deadline)
        try:
            await self._deliver(
                pending, {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
            )
            return await pending.future
        except (asyncio.CancelledError, DeadlineExceeded) as stopped:
            reason = str(stopped) or "the client cancelled the request"
            if method != "initialize":  # the specification forbids cancelling it
                self._cancel(request_id, reason)
            raise
        finally:
            del self._pending[request_id]
            self._last_end = loop.time()

    async def _deliver(self, pending: _Pending, message: Message) -> None:
        """Send, at most until the request's deadline: the timer that ends the wait ends this."""
        sender = asyncio.current_task(self._loop)
        assert sender is not None  # noqa: S101  a coroutine that awaits runs in a task
        cancelled_before = sender.cancelling()
        pending.sender = sender
        try:
            await self._transport.send(message)
        except asyncio.CancelledError:
            if pending.sender is None and sender.uncancel() <= cancelled_before:
                raise _too_late(pending.timeout) from None
            raise  # the caller was cancelled too, and not by us
        finally:
            pending.sender = None

    def notify(self, method: str, params: Message | None = None) -> None:
        """Send a notification when possible."""
        self._transport.send_soon(notification(method, params))

    def receive(self, message: Any, related: int | None = None) -> None:
        """Take one message from the server: an answer, a notification or a request of its own.

        `related` is the request on whose stream it came, where the transport knows.
        """
        if not isinstance(message, dict):
            logger.warning("ignored a message that is no object: %.200r", message)
        elif "method" in message:
            self._receive_call(message, related)
        elif (pending := self._lookup(message.get("id"))) is None:
            logger.info("ignored an answer to id %.100r, which nobody waits for", message.get("id"))
        elif pending.future.done():
            pass
        elif "error" in message:
            _end(pending, RpcError.of(message["error"]))
        elif "result" in message:
            pending.future.set_result(message["result"])
        else:
            _end(pending, ProtocolError("the server answered neither a result nor an error"))

    def fail(self, request_id: Any, error: Exception) -> None:
        """End one request with `error`."""
        pending = self._lookup(request_id)
        if pending is not None:
            _end(pending, error)

    def close(self, reason: str, in_flight: Callable[[], Exception]) -> None:
        """End the conversation: new requests fail with `reason`, those in flight as `in_flight`."""
        self._closed = reason
        if self._timer is not None:
            self._timer.cancel()
        for pending in self._pending.values():
            _end(pending, in_flight())

    def _lookup(self, request_id: Any) -> _Pending | None:
        # True and 1.0 are equal to 1, and no ids of ours.
        return self._pending.get(request_id) if type(request_id) is int else None

    def _cancel(self, request_id: int, reason: str) -> None:
        self._transport.abandon(request_id)
        if self._closed is None:
            self.notify("notifications/cancelled", {"requestId": request_id, "reason": reason})

    def _set_timer(self, when: float) -> None:
        """One timer for all requests, at the first deadline: one timer each costs too much."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._expire)
        self._due = when

    def _expire(self) -> None:
        """End the requests that are due.

        While we stand still no time passes for a server: its answer may lie there unread. But
        who stands still all the time does not wait for ever.
        """
        now = self._loop.time()
        late = now - self._due
        self._timer, self._due = None, math.inf
        waiting = [pending for pending in self._pending.values() if not pending.future.done()]
        if late > patience.STANDSTILL:
            for pending in waiting:
                more = min(late, patience.MOST_MOVED - pending.moved)
                pending.moved += more
                pending.deadline = max(pending.deadline, now) + more
        for pending in waiting:
            if pending.asked:  # the server waits for the client, who may be thinking
                pending.deadline = now + pending.timeout
            elif pending.deadline <= now + _GRAIN:
                _end(pending, _too_late(pending.timeout))
                if (sender := pending.sender) is not None:
                    pending.sender = None
                    sender.cancel()
        if due := [pending.deadline for pending in waiting if not pending.future.done()]:
            self._set_timer(min(due))

    def _receive_call(self, message: Message, related: int | None) -> None:
        method, request_id = message["method"], message.get("id")
        if not isinstance(method, str) or not isinstance(request_id, str | int | float | None):
            logger.warning("ignored a message that is no JSON-RPC: %.200r", message)
        elif not _has_params(message):
            logger.warning("ignored a message with malformed params: %.200r", message)
            if request_id is not None:
                error = {"code": INVALID_PARAMS, "message": "params must be an object"}
                self._transport.send_soon(error_response(request_id, error))
        elif request_id is not None:
            self._serve(message, self._related(related))
        elif method == "notifications/progress":
            self._receive_progress(message)
        elif method == "notifications/cancelled":
            self._receive_cancelled(message)
        else:
            self._receive_notification(message, related)

    def _related(self, request_id: int | None) -> _Pending | None:
        """The request that a message belongs to: the one named, or the only one of a client."""
        if request_id is not None:
            return self._pending.get(request_id)
        of_clients = (pending for pending in self._pending.values() if pending.back is not None)
        first = next(of_clients, None)
        return first if next(of_clients, None) is None else None

    def _receive_notification(self, message: Message, related: int | None) -> None:
        pending = self._related(related) if self._is_part(message, related) else None
        if pending is not None and pending.back is not None:
            pending.back.notify(message)
        else:
            self._inbound.on_notification(message)

    def _is_part(self, message: Message, related: int | None) -> bool:
        """Whether a notification belongs to a request; changes concern the session as a whole."""
        if message["method"] == "notifications/message":
            return True
        asked = self._pending.get(related) if related is not None else None
        return asked is not None and (asked.listens or message["method"] not in SESSION_WIDE)

    def _serve(self, message: Message, pending: _Pending | None) -> None:
        if message["method"] == "ping":
            self._transport.send_soon(response(message["id"], {}))
        elif self._tasks is None:
            error = {"code": METHOD_NOT_FOUND, "message": f"Method not found: {message['method']}"}
            self._transport.send_soon(error_response(message["id"], error))
        elif len(self._served) >= MOST_SERVED:
            error = {"code": INTERNAL_ERROR, "message": "too many requests at once"}
            self._transport.send_soon(error_response(message["id"], error))
        else:
            key = message["id"]
            task = self._tasks.create_task(self._answer(message, pending))
            self._served[key] = task
            task.add_done_callback(lambda _: self._served.pop(key, None))

    async def _answer(self, message: Message, pending: _Pending | None) -> None:
        back = pending.back if pending is not None else None
        if pending is not None:
            pending.asked += 1
        try:
            result = await self._inbound.on_request(message, back)
            answer = response(message["id"], result)
        except RpcError as error:
            answer = error_response(message["id"], error.error)
        except McpcpError as error:
            answer = error_response(message["id"], {"code": INTERNAL_ERROR, "message": str(error)})
        finally:
            if pending is not None:
                pending.asked -= 1
        self._transport.send_soon(answer)

    def _receive_cancelled(self, message: Message) -> None:
        params = message.get("params")
        request_id = params.get("requestId") if isinstance(params, dict) else None
        if isinstance(request_id, str | int) and (task := self._served.get(request_id)):
            task.cancel()

    def _receive_progress(self, message: Message) -> None:
        params = message.get("params")
        pending = self._lookup(params.get("progressToken")) if isinstance(params, dict) else None
        if params is None or pending is None:
            return
        pending.deadline = self._loop.time() + pending.timeout
        if pending.back is not None and pending.progress_token is not None:
            restored = {**params, "progressToken": pending.progress_token}
            pending.back.notify({**message, "params": restored})


def _has_params(message: Message) -> bool:
    """Whether params and their `_meta`, where there are any, are objects."""
    params = message.get("params")
    if not isinstance(params, dict):
        return params is None
    return isinstance(params.get("_meta"), dict | None)


def _end(pending: _Pending, error: Exception) -> None:
    """Fail a request; its caller may have been cancelled and not look any more."""
    if not pending.future.done():
        pending.future.set_exception(error)
        pending.future.exception()


def _too_late(timeout: float) -> DeadlineExceeded:
    return DeadlineExceeded(f"no answer and no progress within {timeout:g} s")
