"""uvicorn's HTTP protocol with bounds on silent connections, and on slow or long heads."""

from __future__ import annotations

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mcpcp.frontends.requests import WHOLE

HEAD_TIMEOUT: Final = 10.0
"""Seconds from accepting a connection, or from a request's first byte, to the end of its head."""
LONGEST_HEAD: Final = 64 * 1024


class BoundedProtocol(HttpToolsProtocol):
    """A connection that costs at most one timer and LONGEST_HEAD bytes until its head is whole."""

    _timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _in_head = True
    _begun = False
    """Whether a head is on its way; one that comes in one piece needs no timer."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accepted: the head must come."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone: nothing is expected any more."""
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what comes before the end of the head."""
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > LONGEST_HEAD + self._body_allowance(data):
                self._give_up()
                return
        super().data_received(data)
        if self._begun and self._timer is None:
            self._start_timer()

    def on_message_begin(self) -> None:
        """A request's first byte."""
        self._begun = self._in_head = True
        if self._timer is None:
            self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is whole: from here the application has its own deadlines."""
        self._head_came()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is whole, mostly in one piece with the head: nobody has to wait for it."""
        self.scope.setdefault("extensions", {})[WHOLE] = {}
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Answered: the connection may idle until uvicorn's keep-alive timeout."""
        self._in_head, self._head_bytes = True, 0
        super().on_response_complete()

    def _body_allowance(self, data: bytes) -> int:
        """A body may come along with the end of the head in one piece."""
        return len(data) if b"\r\n\r\n" in data else 0

    def _expect_head(self) -> None:
        self._in_head, self._head_bytes = True, 0
        self._start_timer()

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(HEAD_TIMEOUT, self._give_up)

    def _head_came(self) -> None:
        self._begun = self._in_head = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.abort()
