"""Resumable streams: what was sent on a session, so that a cut stream can be taken up again."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from mcpcp.frontends.requests import EventStream
from mcpcp.jsonrpc import Message, encode
from mcpcp.state.events import Event, Keep

MOST_EVENTS: Final = 1000
RETRY: Final = 500
"""Milliseconds after which a client should take up a cut stream."""
MOST_HELD: Final = 100
MOST_BYTES: Final = 8 * 1024 * 1024


class Outlet:
    """One stream of a session, over all the connections that carry it in turn.

    `log` keeps what was sent; without one (the modern era) nothing can be taken up again.
    """

    def __init__(self, log: EventLog | None = None) -> None:
        self._log = log
        self._number = log.new_stream(self) if log is not None else 0
        self._stream: EventStream | None = None
        self._held: deque[bytes] = deque(maxlen=MOST_HELD)
        self.ended = False

    @property
    def open(self) -> bool:
        """Whether somebody is listening."""
        return self._stream is not None and not self._stream.closed

    def attach(self, stream: EventStream, replayed: list[bytes] | None = None) -> None:
        """From now on `stream` carries it, beginning with what nobody heard or what is `replayed`.

        The stream before ends.
        """
        if self._stream is not None:
            self._stream.end()
        self._stream = stream
        for data in self._held if replayed is None else replayed:
            stream.push(data)
        self._held.clear()
        if self.ended:
            stream.end()

    def detach(self, stream: EventStream) -> None:
        """Nobody listens to `stream` any more."""
        if self._stream is stream:
            self._stream = None

    def prime(self, request_id: Any) -> bytes:
        """An event without data: from here the stream of that request can be taken up."""
        return b"" if self._log is None else self._log.prime(self._number, request_id)

    def push(self, message: Message) -> None:
        """Send a message; it is kept even where nobody is listening now."""
        text = encode(message)
        if self._log is None:
            data = b"event: message\ndata: " + text + b"\n\n"
        else:
            data = self._log.add(self._number, text)
        if self._stream is not None and not self._stream.closed:
            self._stream.push(data)
        else:
            self._held.append(data)

    def end(self) -> None:
        """Nothing more will come."""
        self.ended = True
        if self._log is not None:
            self._log.end(self._number)
        if self._stream is not None:
            self._stream.end()


class EventLog:
    """The newest events of one session; an event's id names its stream and its number there.

    `keep` takes them too, where other gateways may have to tell them.
    """

    def __init__(self, keep: Keep | None = None) -> None:
        self._keep = keep
        self._events: deque[tuple[int, int, bytes]] = deque()
        self._bytes = 0
        self._last = 0
        self._outlets: dict[int, Outlet] = {}
        self._streams = 0

    def new_stream(self, outlet: Outlet) -> int:
        """A number for one more stream."""
        self._streams += 1
        self._outlets[self._streams] = outlet
        if len(self._outlets) > MOST_EVENTS:
            for number in [n for n, o in self._outlets.items() if o.ended][: MOST_EVENTS // 2]:
                del self._outlets[number]
        return self._streams

    def prime(self, stream: int, request_id: Any) -> bytes:
        """See Outlet."""
        self._last += 1
        if self._keep is not None:
            self._keep(Event(stream, self._last, call=encode(request_id).decode()))
        return b"id: %d-%d\nretry: %d\ndata: \n\n" % (stream, self._last, RETRY)

    def add(self, stream: int, text: bytes) -> bytes:
        """Keep a message of `stream`; the event that carries it."""
        self._last += 1
        data = b"id: %d-%d\nevent: message\ndata: %b\n\n" % (stream, self._last, text)
        if self._keep is not None:
            self._keep(Event(stream, self._last, data))
        self._events.append((stream, self._last, data))
        self._bytes += len(data)
        while len(self._events) > MOST_EVENTS or self._bytes > MOST_BYTES:
            self._bytes -= len(self._events.popleft()[2])
        return data

    def end(self, stream: int) -> None:
        """Nothing more will come on `stream`."""
        if self._keep is not None:
            self._keep(Event(stream, self._last, last=True))

    def resume(self, last_event_id: str) -> tuple[Outlet, list[bytes]] | None:
        """The stream of that event, and what came on it since; None where it is not known."""
        stream, _, number = last_event_id.partition("-")
        if not (stream.isdecimal() and number.isdecimal()):
            return None
        outlet = self._outlets.get(int(stream))
        if outlet is None:
            return None
        return outlet, [d for s, n, d in self._events if s == int(stream) and n > int(number)]
