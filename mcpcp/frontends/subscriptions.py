"""`subscriptions/listen`: how a client of the modern era hears of changes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from mcpcp.callers import Caller, declared_profile
from mcpcp.catalog import KINDS
from mcpcp.errors import McpcpError, TokenError
from mcpcp.gateway import Gateway
from mcpcp.jsonrpc import INVALID_PARAMS, Message, RpcError, notification, response
from mcpcp.listing import Shown
from mcpcp.methods import follow_resource
from mcpcp.policy import Agent
from mcpcp.protocol import LIST_CHANGES, META_SUBSCRIPTION

MOST_RESOURCES: Final = 1000
_FLAGS: Final = {f"{kind}sListChanged": method for kind, method in LIST_CHANGES.items()}


class Subscription:
    """One request to listen: what its client is told, from the acknowledgement to the end.

    `identify` says who listens, anew at each change; it raises TokenError once the token is void.
    """

    def __init__(self, gateway: Gateway, identify: Callable[[], Agent], message: Message) -> None:
        wanted = message["params"].get("notifications") or {}
        if not isinstance(wanted, dict):
            raise RpcError(INVALID_PARAMS, "params.notifications must be an object")
        self._gateway = gateway
        self._identify = identify
        self._meta = {META_SUBSCRIPTION: message["id"]}
        self._flags = {flag: True for flag in _FLAGS if wanted.get(flag)}
        self._uris = _uris(wanted.get("resourceSubscriptions"))
        self._profile = declared_profile(message["params"])
        self._shown = Shown(gateway.view(identify(), self._profile), KINDS)
        self.result = response(message["id"], {"resultType": "complete", "_meta": self._meta})
        """The answer, which says that no more will come."""

    @property
    def acknowledgement(self) -> Message:
        """What is honored of what was asked for; it comes first."""
        honored: Message = dict(self._flags)
        if self._uris:
            honored["resourceSubscriptions"] = self._uris
        params = {"notifications": honored, "_meta": self._meta}
        return notification("notifications/subscriptions/acknowledged", params)

    @contextlib.asynccontextmanager
    async def following(
        self, send: Callable[[Message], None], refused: Callable[[], None]
    ) -> AsyncIterator[None]:
        """While this is open, `send` what changes; `refused` is called once the token is void."""

        def changed() -> None:
            try:
                view = self._gateway.view(self._identify(), self._profile)
            except TokenError:
                refused()
                return
            for method in self._shown.changes(view):
                if any(_FLAGS[flag] == method for flag in self._flags):
                    send(notification(method, {"_meta": self._meta}))

        def updated(message: Message) -> None:
            params = message.get("params") or {}
            meta = {**(params.get("_meta") or {}), **self._meta}
            send({**message, "params": {**params, "_meta": meta}})

        with contextlib.ExitStack() as watching:
            watching.enter_context(self._gateway.registry.watch(changed))
            for uri in self._uris:
                with contextlib.suppress(McpcpError):  # one that is not there is never updated
                    caller = Caller(self._identify(), modern=True, declared=self._profile)
                    watching.callback(await follow_resource(self._gateway, caller, uri, updated))
            yield


def _uris(wanted: Any) -> list[str]:
    if wanted is None:
        return []
    if not isinstance(wanted, list) or not all(isinstance(uri, str) for uri in wanted):
        raise RpcError(INVALID_PARAMS, "resourceSubscriptions must be a list of URIs")
    if len(wanted) > MOST_RESOURCES:
        raise RpcError(INVALID_PARAMS, f"at most {MOST_RESOURCES} resources a subscription")
    return wanted
