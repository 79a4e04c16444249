"""Calls of the sandbox server: retried only while nothing of them was taken, each with a deadline.

Above: the tool server. Below: `line`, the session that calls share, opened by the first of them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import anyio
from anyio.abc import TaskGroup
from mcp.shared.dispatcher import ProgressFnT
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CONNECTION_CLOSED,
    UNSUPPORTED_PROTOCOL_VERSION,
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
    RequestParamsMeta,
)

from servers.executing.line import Attempt, Line, keep, watched
from servers.executing.route import Sandbox
from servers.plumbing.calls import STOPPING

logger = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
_GOODBYE_SECONDS = 2.0
_ANOTHER_SERVER = (UNSUPPORTED_PROTOCOL_VERSION, STOPPING)
"""Errors of a call that was not run, by which another server is there now or soon."""


class SandboxAway(Exception):
    """The sandbox server did not answer; the message says whether the code may have run."""


@dataclass(frozen=True, slots=True)
class Order:
    """One call: `meta` says whose it is, `answer_in` are seconds until it has to be answered."""

    tool: str
    arguments: dict[str, Any]
    meta: dict[str, str]
    answer_in: float

    def request(self) -> CallToolRequest:
        """As it goes over the wire."""
        meta = cast("RequestParamsMeta", self.meta)
        return CallToolRequest(
            params=CallToolRequestParams(name=self.tool, arguments=self.arguments, _meta=meta)
        )


class Forwarder:
    """Calls tools of the sandbox server over one session, inside `async with forwarder.ready()`."""

    def __init__(self, find: Callable[[], Sandbox], connect_in: float) -> None:
        """`connect_in`: seconds until the sandbox server has to take a call."""
        self._find = find
        self._connect_in = connect_in
        self._line: Line | None = None
        self._opening = anyio.Lock()
        self._lines: TaskGroup | None = None

    @asynccontextmanager
    async def ready(self) -> AsyncIterator[None]:
        """Calls can be made while the context lasts; nothing of a session is left after it."""
        async with anyio.create_task_group() as lines:
            self._lines = lines
            try:
                yield
            finally:
                self._lines = None
                if self._line is not None:
                    self._line.retire()
                lines.cancel_scope.deadline = anyio.current_time() + _GOODBYE_SECONDS

    async def call(self, order: Order, progress: ProgressFnT) -> CallToolResult:
        """The sandbox server's answer as it is.

        Cancelling it cancels the call there, and no other. Raises SandboxAway.
        """
        deadline = time.monotonic() + self._connect_in
        pause = _FIRST_PAUSE
        while True:
            attempt = Attempt()
            try:
                return await self._try(order, progress, attempt, deadline)
            except Exception as e:
                self._give_up_unless_in_vain(e, attempt, deadline)
                logger.info("the sandbox server is tried again", extra={"why": _why(e, attempt)})
            await anyio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _try(
        self, order: Order, progress: ProgressFnT, attempt: Attempt, deadline: float
    ) -> CallToolResult:
        connect_in = max(0.1, deadline - time.monotonic())
        with anyio.CancelScope(deadline=anyio.current_time() + connect_in) as scope:
            line = await self._open_line()
            scope.deadline = anyio.current_time() + order.answer_in
            try:
                with line.used() as session, watched(attempt):
                    return await session.send_request(
                        order.request(), CallToolResult, progress_callback=progress
                    )
            except MCPError as e:
                if e.code in _ANOTHER_SERVER:
                    attempt.turned_away = attempt.forgotten = True
                if attempt.forgotten or e.code == CONNECTION_CLOSED:
                    line.retire()
                raise
        if attempt.in_vain:
            raise TimeoutError(f"it did not answer within {connect_in:.0f} s")
        raise SandboxAway(
            f"the sandbox server has not answered for {order.answer_in:.0f} s, and was told"
            " to stop: the code may have run in part"
        )

    async def _open_line(self) -> Line:
        """The session, opened by the first who wants it; raises what opening it raises."""
        async with self._opening:
            if self._line is None or self._line.retired:
                if self._lines is None:
                    raise RuntimeError("a forwarder calls inside `async with forwarder.ready()`")
                self._line = await self._lines.start(partial(keep, self._find(), self._connect_in))
            return self._line

    def _give_up_unless_in_vain(self, e: Exception, attempt: Attempt, deadline: float) -> None:
        """Raises SandboxAway where trying again could run the code twice, or would be in vain."""
        reason = next(leaves(e))
        if isinstance(reason, SandboxAway):
            raise reason
        if _refused(reason, attempt):
            raise SandboxAway(f"the sandbox server refused the call: {reason}") from e
        if not attempt.in_vain:
            logger.error("a call was lost", exc_info=e, extra={"why": _why(e, attempt)})
            raise SandboxAway(
                "the sandbox server went away during the call: the code may have run, wholly or in"
                " part. Look at what it should have changed before you run it again."
            ) from e
        if time.monotonic() >= deadline:
            raise SandboxAway(
                f"the sandbox server at {self._find().url} can't be reached"
                f" ({_why(e, attempt)}); the code was not run. Try again later; the operator sees"
                " more in `mcpcp status`."
            ) from e


def _refused(reason: BaseException, attempt: Attempt) -> bool:
    """Whether the server itself said no: to the call, or to opening a session for it."""
    if not isinstance(reason, MCPError) or attempt.failure or attempt.turned_away:
        return False
    return reason.code != CONNECTION_CLOSED


def _why(e: Exception, attempt: Attempt) -> str:
    reason = next(leaves(e))
    return attempt.failure or str(reason) or type(reason).__name__


def leaves(e: BaseException) -> Iterator[BaseException]:
    """The exceptions in a group, however deep; else the exception itself."""
    if isinstance(e, BaseExceptionGroup):
        for inner in e.exceptions:
            yield from leaves(inner)
    else:
        yield e
