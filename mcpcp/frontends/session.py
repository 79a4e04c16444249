"""A client's session on a duplex stream: stdio, the relays' socket and HTTP+SSE share it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Final

from mcpcp import requestid
from mcpcp.callers import Caller, check_modern, declared_profile
from mcpcp.errors import McpcpError, TokenError
from mcpcp.frontends.answers import answer, check_message, error_object
from mcpcp.frontends.subscriptions import Subscription
from mcpcp.gateway import Gateway
from mcpcp.jsonrpc import Message, RpcError, error_response, notification
from mcpcp.listing import Shown
from mcpcp.policy import Agent
from mcpcp.protocol import LISTEN, META_VERSION
from mcpcp.sessions import way_back

Send = Callable[[Message], None]

MOST_IN_FLIGHT: Final = 1000
"""Requests of one session that may be under way at once."""


class DuplexSession(AbstractContextManager["DuplexSession"]):
    """One client's conversation, in whichever era its messages are.

    `identify` says, for each message anew, who is speaking; it raises TokenError when the token has
    expired or was revoked. `send` takes our messages to the client and never blocks.
    """

    def __init__(
        self,
        gateway: Gateway,
        identify: Callable[[], Agent],
        send: Send,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._gateway = gateway
        self._identify = identify
        self._send = send
        self._tasks = tasks
        self._requests: dict[Any, asyncio.Task[None]] = {}
        self._subscriptions: set[Any] = set()
        self._client = gateway.open_session(self._push)
        self._resources = ExitStack()

    def __enter__(self) -> DuplexSession:
        self._resources.enter_context(self._gateway.registry.watch(self._catalog_changed))
        self._resources.enter_context(self._gateway.metrics.session())
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._resources.close()
        self._client.close()
        for task in list(self._requests.values()):
            task.cancel()

    def receive(self, message: Any) -> None:
        """Take one decoded message from the client."""
        request_id = message.get("id") if isinstance(message, dict) else None
        try:
            message = check_message(message)
            if "method" not in message:
                self._client.receive_answer(message)
            elif request_id is None:
                self._receive_notification(message)
            else:
                self._start(message)
        except McpcpError as error:
            self._send(error_response(request_id, error_object(error)))

    def refuse(self, error: McpcpError) -> None:
        """Answer what could not be read as a message."""
        self._send(error_response(None, error_object(error)))

    @property
    def id(self) -> str:
        """What the client's messages are filed under."""
        return self._client.id

    @property
    def busy(self) -> bool:
        """Whether requests are under way; subscriptions, which never end, do not count."""
        return bool(self._requests.keys() - self._subscriptions)

    async def answered(self, timeout: float) -> None:
        """Wait until another request has been answered, at most `timeout` seconds."""
        tasks = [t for i, t in self._requests.items() if i not in self._subscriptions]
        if tasks:
            await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)

    def _start(self, message: Message) -> None:
        request_id = message["id"]
        if request_id in self._requests:
            raise RpcError(-32600, f"Invalid request: id {request_id!r} is in use")
        if len(self._requests) >= MOST_IN_FLIGHT:
            raise RpcError(-32000, f"more than {MOST_IN_FLIGHT} requests at once: try again later")
        caller = self._caller(message)
        if message["method"] == LISTEN and caller.modern:
            work = self._listen(Subscription(self._gateway, self._identify, message))
            self._subscriptions.add(request_id)
        else:
            work = self._answer(caller, message)
        task = self._tasks.create_task(work)
        self._requests[request_id] = task
        task.add_done_callback(lambda _: self._forget(request_id))

    def _forget(self, request_id: Any) -> None:
        self._requests.pop(request_id, None)
        self._subscriptions.discard(request_id)

    def _caller(self, message: Message) -> Caller:
        agent = self._identify()
        params = message.get("params")
        meta = params.get("_meta") if isinstance(params, dict) else None
        modern = isinstance(meta, dict) and META_VERSION in meta
        if modern:
            return Caller(agent, modern=True, declared=declared_profile(check_modern(params)))
        if self._client.shown is None:
            self._client.shown = Shown(self._gateway.view(agent))
        return Caller(agent, self._client)

    async def _answer(self, caller: Caller, message: Message) -> None:
        requestid.go_on(_given_id(message))
        back = way_back(caller, self._send)
        self._send(await answer(self._gateway, caller, message, back))

    async def _listen(self, subscription: Subscription) -> None:
        """Acknowledged at once, it tells of changes until it is cancelled or we stop."""
        self._send(subscription.acknowledgement)
        async with subscription.following(self._send, lambda: None):
            await self._gateway.draining.wait()
        self._send(subscription.result)

    def _receive_notification(self, message: Message) -> None:
        if message["method"] != "notifications/cancelled":
            self._identify()
            self._client.receive_notification(message)
            return
        params = message.get("params")
        request_id = params.get("requestId") if isinstance(params, dict) else None
        if isinstance(request_id, str | int) and (task := self._requests.get(request_id)):
            task.cancel()

    def _push(self, message: Message) -> None:
        """Pass on what a server says, while its client's token is good."""
        try:
            self._identify()
        except TokenError:
            return
        self._send(message)

    def _catalog_changed(self) -> None:
        """Tell a legacy client when its own view has changed, and only then."""
        if self._client.shown is None:
            return
        try:
            view = self._gateway.view(self._identify(), self._client.profile)
        except TokenError:
            return
        for change in self._client.shown.changes(view):
            self._send(notification(change))


def _given_id(message: Message) -> object:
    """The request id that the client itself brings, if any."""
    params = message.get("params")
    meta = params.get("_meta") if isinstance(params, dict) else None
    return meta.get(requestid.META_REQUEST) if isinstance(meta, dict) else None
