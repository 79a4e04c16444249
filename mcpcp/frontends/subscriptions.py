"""`subscriptions/listen`: how a client of the modern era hears of changes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

from mcpcp.errors import TokenError
from mcpcp.gateway import Gateway
from mcpcp.jsonrpc import (
    INVALID_PARAMS,
    META_SUBSCRIPTION,
    Message,
    RpcError,
    notification,
    response,
)
from mcpcp.policy import Agent

LISTEN: Final = "subscriptions/listen"
TOOLS_CHANGED: Final = "notifications/tools/list_changed"


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
        self._honored = {"toolsListChanged": True} if wanted.get("toolsListChanged") else {}
        self._shown = gateway.view(identify()).tools
        self.result = response(message["id"], {"resultType": "complete", "_meta": self._meta})
        """The answer, which says that no more will come."""

    @property
    def acknowledgement(self) -> Message:
        """What is honored of what was asked for; it comes first."""
        params = {"notifications": self._honored, "_meta": self._meta}
        return notification("notifications/subscriptions/acknowledged", params)

    def following(
        self, send: Callable[[Message], None], refused: Callable[[], None]
    ) -> AbstractContextManager[None]:
        """While this is open, `send` what changes; `refused` is called once the token is void."""

        def changed() -> None:
            try:
                tools = self._gateway.view(self._identify()).tools
            except TokenError:
                refused()
                return
            if tools != self._shown and self._honored:
                self._shown = tools
                send(notification(TOOLS_CHANGED, {"_meta": self._meta}))

        return self._gateway.registry.watch(changed)
