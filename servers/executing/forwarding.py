"""One call of the sandbox server: retried only while nothing was sent, with a deadline of its own.

Each call has a connection of its own, so that one which breaks takes no other along. The client is
imported by the first call: a server that nobody uses starts without it.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import anyio
from mcp_types import CallToolRequest, CallToolRequestParams, CallToolResult, RequestParamsMeta

from servers.executing.route import Sandbox

logger = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0

if TYPE_CHECKING:
    from mcp.shared.dispatcher import ProgressFnT


class SandboxAway(Exception):
    """The sandbox server did not answer; the message says whether the code may have run."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: until the sandbox server takes the call, and until it has answered it."""

    connect_in: float
    answer_in: float


@dataclass(slots=True)
class _Attempt:
    sent: bool = False


@dataclass(frozen=True, slots=True)
class Forwarder:
    """Calls one tool of the sandbox server, once."""

    sandbox: Sandbox
    patience: Patience

    async def call(
        self, tool: str, arguments: dict[str, Any], meta: dict[str, str], progress: ProgressFnT
    ) -> CallToolResult:
        """The sandbox server's answer as it is; `meta` says whose call it is.

        Cancelling it cancels the call there. Raises SandboxAway.
        """
        params = CallToolRequestParams(
            name=tool, arguments=arguments, _meta=cast("RequestParamsMeta", meta)
        )
        request = CallToolRequest(params=params)
        _load()  # before the clock runs: what we take for it is not the sandbox server's fault
        deadline = time.monotonic() + self.patience.connect_in
        pause = _FIRST_PAUSE
        while True:
            attempt = _Attempt()
            try:
                return await self._try(request, progress, attempt, deadline)
            except Exception as e:
                self._give_up_unless_unsent(e, attempt, deadline)
                logger.info(
                    "the sandbox server is tried again", extra={"why": str(next(leaves(e)))}
                )
            await anyio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _give_up_unless_unsent(self, e: Exception, attempt: _Attempt, deadline: float) -> None:
        """Raises SandboxAway where trying again could run the code twice, or would be in vain."""
        from mcp.shared.exceptions import MCPError

        reasons = list(leaves(e))
        for reason in reasons:
            if isinstance(reason, SandboxAway):
                raise reason
            if isinstance(reason, MCPError):
                raise SandboxAway(f"the sandbox server refused the call: {reason}") from e
        if attempt.sent:
            logger.error("a call was lost", exc_info=e)
            raise SandboxAway(
                "the sandbox server went away during the call: the code may have run, wholly or in"
                " part. Look at what it should have changed before you run it again."
            ) from e
        if time.monotonic() >= deadline:
            raise SandboxAway(
                f"the sandbox server at {self.sandbox.url} can't be reached ({reasons[0]}); the"
                " code was not run. Try again later; the operator sees more in `mcpcp status`."
            ) from e

    async def _try(
        self,
        request: CallToolRequest,
        progress: ProgressFnT,
        attempt: _Attempt,
        deadline: float,
    ) -> CallToolResult:
        import httpx2
        from mcp.client.client import Client
        from mcp.client.streamable_http import streamable_http_client

        connect_in = max(0.1, deadline - time.monotonic())
        timeout = httpx2.Timeout(connect_in, read=None)
        with anyio.CancelScope(deadline=anyio.current_time() + connect_in) as scope:
            async with (
                httpx2.AsyncClient(
                    headers=dict(self.sandbox.headers), timeout=timeout, verify=_trust()
                ) as http,
                Client(streamable_http_client(self.sandbox.url, http_client=http), cache=None) as c,
            ):
                scope.deadline = anyio.current_time() + self.patience.answer_in
                attempt.sent = True
                return await c.session.send_request(
                    request, CallToolResult, progress_callback=progress
                )
        if not attempt.sent:
            raise TimeoutError(f"it did not answer within {connect_in:.0f} s")
        raise SandboxAway(
            f"the sandbox server has not answered for {self.patience.answer_in:.0f} s, and was told"
            " to stop: the code may have run in part"
        )


@cache
def _load() -> None:
    """Import the client, and read whom to believe."""
    import httpx2  # noqa: F401
    from mcp.client.client import Client  # noqa: F401
    from mcp.client.streamable_http import streamable_http_client  # noqa: F401

    _trust()


@cache
def _trust() -> ssl.SSLContext:
    """Whom to believe over https; once, since reading the list takes longer than a call."""
    return ssl.create_default_context()


def leaves(e: BaseException) -> Iterator[BaseException]:
    """The exceptions in a group, however deep; else the exception itself."""
    if isinstance(e, BaseExceptionGroup):
        for inner in e.exceptions:
            yield from leaves(inner)
    else:
        yield e
