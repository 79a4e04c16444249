"""Where client and server have no era in common: the questions of one written as the other's.

A modern server answers a call with `input_required`; a legacy client is asked by requests of ours,
and the call goes on with what it answers. A legacy server asks in the middle of a call; for a
modern client the call is parked, answered with `input_required`, and goes on with the next try.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Protocol

from mcpcp.errors import Interrupted, McpcpError, ProtocolError
from mcpcp.jsonrpc import CONNECTION_CLOSED, INVALID_PARAMS, RESOURCE_NOT_FOUND, Message, RpcError
from mcpcp.peer import Back

MOST_ROUNDS: Final = 20
PARKED_FOR: Final = 600.0
"""Seconds a parked call waits for its client: a person may be thinking."""
MOST_PARKED: Final = 1000
_STATE_PAUSE: Final = 0.1

Send = Callable[[Message], Awaitable[Any]]
Begin = Callable[[Back], Coroutine[Any, Any, Any]]
Start = Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]


def needs_input(result: Any) -> bool:
    """Whether a modern result asks for something before the call can go on."""
    return isinstance(result, dict) and result.get("resultType") == "input_required"


class WithoutLogs:
    """A way back on which no log travels: a modern client asks for it, request by request."""

    def __init__(self, back: Back) -> None:
        self._back = back

    def notify(self, message: Message) -> None:
        """See Back."""
        if message.get("method") != "notifications/message":
            self._back.notify(message)

    async def ask(self, method: str, params: Message) -> Any:
        """See Back."""
        return await self._back.ask(method, params)


def modern_error(error: RpcError) -> RpcError:
    """A legacy server's error as the modern era writes it."""
    if error.error.get("code") != RESOURCE_NOT_FOUND:
        return error
    return RpcError.of({**error.error, "code": INVALID_PARAMS})


async def with_answers(send: Send, params: Message, back: Back) -> Any:
    """Send a request of a legacy client to a modern server until it is answered for good."""
    for _ in range(MOST_ROUNDS):
        result = await send(params)
        if not needs_input(result):
            return result
        asked = result.get("inputRequests") or {}
        if not isinstance(asked, dict):
            raise ProtocolError("the server's inputRequests are no object")
        answers = await _answers(asked, back)
        params = {k: v for k, v in params.items() if k not in ("inputResponses", "requestState")}
        if answers:
            params["inputResponses"] = answers
        else:
            await asyncio.sleep(_STATE_PAUSE)
        if "requestState" in result:
            params["requestState"] = result["requestState"]
    raise ProtocolError(f"the server asked for input more than {MOST_ROUNDS} times")


async def _answers(asked: Message, back: Back) -> Message:
    try:
        async with asyncio.TaskGroup() as tasks:
            answers = {k: tasks.create_task(_ask(back, request)) for k, request in asked.items()}
    except* McpcpError as errors:
        raise _first(errors) from None
    return {key: task.result() for key, task in answers.items()}


def _first(errors: BaseExceptionGroup[McpcpError]) -> McpcpError:
    """One of several errors: the client that caused them needs no more."""
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


async def _ask(back: Back, request: Any) -> Any:
    if not isinstance(request, dict) or not isinstance(request.get("method"), str):
        raise ProtocolError("the server's input request has no method")
    return await back.ask(request["method"], request.get("params") or {})


class Peers(Protocol):
    """The gateways among which a call is parked: their common key, and ids that name ours."""

    key: bytes

    def id(self) -> str:
        """A new id."""


def id_in_state(request_state: object) -> str | None:
    """The id of the parked call that a requestState of ours names, whoever signed it."""
    if not isinstance(request_state, str) or not request_state.startswith("mcpcp."):
        return None
    return request_state.split(".", 2)[1]


class _Parked:
    """A call that goes on while its client comes and goes; it is its own way back."""

    call: asyncio.Task[Any]

    def __init__(self, owner: object) -> None:
        self.owner = owner
        self.questions: dict[str, tuple[Message, asyncio.Future[Any]]] = {}
        self.asked = asyncio.Event()
        self.tell: Callable[[Message], None] | None = None
        self.expiry: asyncio.TimerHandle | None = None
        self._numbers = 0

    def notify(self, message: Message) -> None:
        """See Back; between two tries there is nobody to tell."""
        if self.tell is not None:
            self.tell(message)

    async def ask(self, method: str, params: Message) -> Any:
        """See Back: the question waits for the client's next try."""
        self._numbers += 1
        key = f"input-{self._numbers}"
        future = asyncio.get_running_loop().create_future()
        self.questions[key] = ({"method": method, "params": params}, future)
        self.asked.set()
        try:
            return await future
        finally:
            self.questions.pop(key, None)
            if not self.questions:
                self.asked.clear()  # the server may have taken its question back


@dataclass(frozen=True, slots=True)
class _Failed:
    error: Exception


async def _settled(call: Coroutine[Any, Any, Any]) -> Any:
    """What came of a call; an error is its client's, and no reason to end the tasks beside it."""
    try:
        return await call
    except Exception as error:
        return _Failed(error)


def _result(call: asyncio.Task[Any]) -> Any:
    if call.cancelled():
        raise Interrupted("the call was given up while it waited for its client")
    result = call.result()
    if isinstance(result, _Failed):
        raise result.error
    return result


class ParkingLot:
    """Calls of modern clients that wait, with a legacy server, for their client's input.

    A requestState names the parked call, is signed, expires, and is good for its owner alone. With
    `peers`, it names its gateway too, and whichever gets it passes it on to that one.
    """

    def __init__(
        self,
        start: Start,
        clock: Callable[[], float] = time.time,
        peers: Peers | None = None,
    ) -> None:
        self._start = start
        self._clock = clock
        self._key = secrets.token_bytes(32) if peers is None else peers.key
        self._peers = peers
        self._calls: dict[str, _Parked] = {}

    async def call(self, owner: object, params: Message, back: Back, begin: Begin) -> Any:
        """Begin a call, or go on with a parked one: its result, or what it needs to go on.

        `begin(back)` makes the call; `owner` is who may go on with it.
        """
        state = params.get("requestState")
        if isinstance(state, str) and state.startswith("mcpcp."):
            parked_id = self._verify(state, owner)
            parked = self._calls[parked_id]
            self._deliver(parked, params.get("inputResponses"))
        else:
            parked_id, parked = self._park(owner, begin)
        parked.tell = back.notify
        try:
            return await self._outcome(parked_id, parked)
        except asyncio.CancelledError:
            self._drop(parked_id)
            raise
        finally:
            parked.tell = None

    def _park(self, owner: object, begin: Begin) -> tuple[str, _Parked]:
        if len(self._calls) >= MOST_PARKED:
            raise RpcError(CONNECTION_CLOSED, "too many calls wait for input: try again later")
        parked = _Parked(owner)
        parked.call = self._start(_settled(begin(parked)))
        parked_id = self._peers.id() if self._peers else secrets.token_hex(16)
        self._calls[parked_id] = parked
        return parked_id, parked

    async def _outcome(self, parked_id: str, parked: _Parked) -> Any:
        """The call's result, or the questions that came first."""
        asked = self._start(parked.asked.wait())
        try:
            await asyncio.wait((parked.call, asked), return_when=asyncio.FIRST_COMPLETED)
        finally:
            asked.cancel()
        if parked.call.done():
            self._calls.pop(parked_id, None)
            return _result(parked.call)
        loop = asyncio.get_running_loop()
        parked.expiry = loop.call_later(PARKED_FOR, self._drop, parked_id)
        return {
            "resultType": "input_required",
            "inputRequests": {key: request for key, (request, _) in parked.questions.items()},
            "requestState": self._sign(parked_id, parked.owner),
        }

    def _deliver(self, parked: _Parked, responses: Any) -> None:
        if responses is None:
            responses = {}
        if not isinstance(responses, dict):
            raise RpcError(INVALID_PARAMS, "inputResponses must be an object")
        if parked.expiry is not None:
            parked.expiry.cancel()
        for key, response in responses.items():
            if key in parked.questions:
                _, future = parked.questions.pop(key)
                if not future.done():
                    future.set_result(response)
        if not parked.questions:
            parked.asked.clear()

    def _drop(self, parked_id: str) -> None:
        parked = self._calls.pop(parked_id, None)
        if parked is not None:
            parked.call.cancel()

    def _sign(self, parked_id: str, owner: object) -> str:
        text = f"{parked_id}.{int(self._clock() + PARKED_FOR)}"
        return f"mcpcp.{text}.{self._digest(text, owner)}"

    def _verify(self, state: str, owner: object) -> str:
        _, _, rest = state.partition(".")
        text, _, digest = rest.rpartition(".")
        parked_id, _, expires = text.partition(".")
        good = hmac.compare_digest(digest.encode(), self._digest(text, owner).encode())
        if not good or self._clock() > int(expires) or parked_id not in self._calls:
            raise RpcError(INVALID_PARAMS, "this requestState is not valid any more: call again")
        return parked_id

    def _digest(self, text: str, owner: object) -> str:
        return hmac.new(self._key, f"{text}.{owner!r}".encode(), hashlib.sha256).hexdigest()
