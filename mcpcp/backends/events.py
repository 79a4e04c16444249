"""Server-sent events, as a server's stream brings them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final

from mcpcp.backends.http import LARGEST_BODY, Response
from mcpcp.errors import ProtocolError

LONGEST_RETRY: Final = 30.0


@dataclass(slots=True)
class Place:
    """Where in a stream a reader is: what to name when taking it up again, and when (seconds)."""

    last_id: str | None = None
    retry: float = 1.0


async def events(
    response: Response, place: Place | None = None
) -> AsyncGenerator[tuple[str, bytes]]:
    """The (event, data) pairs of a stream; `place` is kept up to date."""
    reader = EventReader(place or Place())
    async with contextlib.aclosing(response.__aiter__()) as parts:
        async for part in parts:
            try:
                found = reader.feed(part)
            except ProtocolError:
                response.close()
                raise
            for each in found:
                yield each


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
        *lines, rest = split_lines(b"".join(self._pieces))
        self._pieces, self._size = [rest], len(rest)
        return [found for line in lines if (found := self._take(line)) is not None]

    def _take(self, line: bytes) -> tuple[str, bytes] | None:
        """Take one line; the event, where the line ends one that has data."""
        if line:
            self._take_field(line)
            return None
        event, data = self._event or "message", self._data
        self._event, self._data = "", []
        return (event, b"\n".join(data)) if data else None

    def _take_field(self, line: bytes) -> None:
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._event = value.decode("utf-8", "replace")
        elif field == b"id" and b"\0" not in value:
            self._place.last_id = value.decode("utf-8", "replace") or None
        elif field == b"retry" and value.isdigit():
            self._place.retry = min(int(value[:9]) / 1000, LONGEST_RETRY)


def split_lines(text: bytes) -> list[bytes]:
    """Lines and, last, the unfinished rest; a final CR stays in it: its LF may be yet to come.

    It searches, which for the long lines of large results is many times faster than splitting.
    """
    lines: list[bytes] = []
    begin = 0
    while (end := text.find(b"\n", begin)) >= 0:
        line = text[begin:end].removesuffix(b"\r")
        if b"\r" in line:
            lines += line.split(b"\r")
        else:
            lines.append(line)
        begin = end + 1
    rest = text[begin:]
    if b"\r" in rest:
        *more, last = rest.removesuffix(b"\r").split(b"\r")
        lines += more
        rest = last + (b"\r" if rest.endswith(b"\r") else b"")
    return [*lines, rest]
