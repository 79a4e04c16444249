"""Server-sent events, as a server's stream brings them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Final

from mcpcp.backends.http import LARGEST_BODY, Response
from mcpcp.errors import ProtocolError

LONGEST_RETRY: Final = 30.0
_MESSAGE: Final = re.compile(rb"event: message(\r?\n)data: ")


@dataclass(slots=True)
class Place:
    """Where in a stream a reader is: what to name when taking it up again, and when (seconds)."""

    last_id: str | None = None
    retry: float = 1.0


async def events(response: Response) -> AsyncGenerator[tuple[str, bytes]]:
    """The (event, data) pairs of a stream, for who takes his time with each."""
    reader = EventReader(Place())
    async with contextlib.aclosing(response.__aiter__()) as parts:
        async for part in parts:
            try:
                found = reader.feed(part)
            except ProtocolError:
                response.close()
                raise
            for each in found:
                yield each


async def follow(
    response: Response, take: Callable[[str, bytes], bool | None], place: Place | None = None
) -> None:
    """Hand each event and its data to `take` the moment it comes, to the end of the stream or until
    `take` is satisfied; `place` is kept up to date."""
    reader = EventReader(place or Place())

    def feed(part: bytes) -> bool:
        for event, data in reader.feed(part):  # noqa: SIM110  (a generator costs more than the rest)
            if take(event, data):
                return True
        return False

    await response.follow(feed)


class EventReader:
    """Finds events in a stream that is cut anywhere; comments and pings are passed over.

    Lines may end in CR LF, LF or CR; several data lines are joined with LF, as the standard says.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._pieces: list[bytes] = []
        self._size = 0
        self._event = ""
        self._data: list[bytes] = []

    def feed(self, part: bytes) -> list[tuple[str, bytes]]:
        """The events that `part` completes; ProtocolError where a line is too long."""
        self._pieces.append(part)
        self._size += len(part)
        if self._size > LARGEST_BODY:
            raise ProtocolError(f"the server sent a line of more than {LARGEST_BODY} bytes")
        if b"\n" not in part and b"\r" not in part:
            return []
        return self._take_lines(b"".join(self._pieces))

    def _take_lines(self, text: bytes) -> list[tuple[str, bytes]]:
        """Take every line of `text` that is whole; the rest waits for its end.

        It searches for their ends, and cuts out of a line nothing but what is needed: for the long
        lines of large results that is many times faster than splitting.
        """
        found: list[tuple[str, bytes]] = []
        begin = 0 if self._event or self._data else self._take_messages(text, found)
        while (end := text.find(b"\n", begin)) >= 0:
            if text.find(b"\r", begin, end) in (-1, end - 1):
                self._take(text, begin, end - text.startswith(b"\r", end - 1), found)
            else:
                self._take_each(text[begin:end].removesuffix(b"\r").split(b"\r"), found)
            begin = end + 1
        rest = text[begin:]
        if b"\r" in rest:  # one at the very end stays: its LF may be yet to come
            *lines, last = rest.removesuffix(b"\r").split(b"\r")
            self._take_each(lines, found)
            rest = last + (b"\r" if rest.endswith(b"\r") else b"")
        self._pieces, self._size = [rest] if rest else [], len(rest)
        return found

    def _take_messages(self, text: bytes, found: list[tuple[str, bytes]]) -> int:
        """Take the events of the form that nearly all have; where those of any form begin."""
        begin = 0
        while (head := _MESSAGE.match(text, begin)) is not None:
            data, blank = head.end(), 2 * head[1]
            end = text.find(b"\n", data) + 1 - len(head[1])
            if end < data or not text.startswith(blank, end) or text.find(b"\r", data, end) >= 0:
                break
            found.append(("message", text[data:end]))
            begin = end + len(blank)
        return begin

    def _take_each(self, lines: list[bytes], found: list[tuple[str, bytes]]) -> None:
        for line in lines:
            self._take(line, 0, len(line), found)

    def _take(self, text: bytes, begin: int, end: int, found: list[tuple[str, bytes]]) -> None:
        """Take the line of `text` from `begin` to `end`; a blank one ends an event."""
        if text.startswith(b"data:", begin, end):
            blank = text.startswith(b" ", begin + 5, end)
            self._data.append(text[begin + 5 + blank : end])
        elif begin < end:
            self._take_field(text[begin:end])
        else:
            if self._data:
                found.append((self._event or "message", b"\n".join(self._data)))
            self._event, self._data = "", []

    def _take_field(self, line: bytes) -> None:
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._event = value.decode("utf-8", "replace")
        elif field == b"id" and b"\0" not in value:
            # Byte for byte what a header will say, whatever it is written in.
            self._place.last_id = value.decode("latin-1") or None
        elif field == b"retry" and value.isdigit():
            self._place.retry = min(int(value[:9]) / 1000, LONGEST_RETRY)
