"""How a server's transport is carried: what connection.py needs of each, and the choice of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from mcpcp.errors import McpcpError, Unavailable
from mcpcp.jsonrpc import CONNECTION_CLOSED, Message, RpcError

PING: Final = {"jsonrpc": "2.0", "id": "mcpcp-ping", "method": "ping"}
"""Asked by a transport itself, which wants to know no more than the status: some servers answer 400
for a session that they forgot, as they do for other mistakes, and then for this as well."""
LOST: Final = (400, 404)


class Receive(Protocol):
    """Takes a decoded message, and the request on whose stream it came where that is known."""

    def __call__(self, message: Any, related: int | None = None) -> None: ...


Fail = Callable[[Any, Exception], None]


class BackendTransport(Protocol):
    """One connection to one server, from its opening to its end."""

    async def run(self, ready: Callable[[], None], receive: Receive, fail: Fail) -> None:
        """Open, call `ready`, hand each message to `receive` until the connection ends, close.

        `fail(request id, error)` ends one request whose answer can't come any more. Raises
        Unavailable where it can't be opened; returns or raises McpcpError when it has ended.
        """

    async def send(self, message: Message) -> None:
        """Deliver a request; Unavailable where it certainly did not arrive."""

    def send_soon(self, message: Message) -> None:
        """Deliver a notification or an answer when possible."""

    def abandon(self, request_id: int) -> None:
        """Nobody waits for this answer any more."""

    def negotiated(self, version: str) -> None:
        """The protocol version that both sides agreed on."""


def credential_headers(headers: Mapping[str, str], credential: str | None) -> dict[str, str]:
    """The configured headers, and for a server of our own the fleet's credential."""
    if credential is None:
        return dict(headers)
    return {**headers, "X-Mcpcp-Credential": credential}


def refusal(status: int) -> McpcpError:
    """What an HTTP status means for the request that it answers."""
    if status == 503:
        return Unavailable("the server answered HTTP 503")
    if status < 500:
        text = f"the server refused the message with HTTP {status}"
        return RpcError(CONNECTION_CLOSED, text, {"delivered": False})
    text = f"the server answered HTTP {status}: whether the request took effect is not known"
    return RpcError(CONNECTION_CLOSED, text, {"delivered": True})
