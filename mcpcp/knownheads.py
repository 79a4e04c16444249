"""Heads of HTTP messages that a connection need not read again. Pure.

Either side of a connection sends the same head with each message, but for the length of what
follows. Reading one costs several microseconds, comparing it to the last a few hundred nanoseconds.
"""

from __future__ import annotations

import re
from typing import Final, Generic, TypeVar

_END: Final = b"\r\n\r\n"
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,8})(?=\r\n)", re.IGNORECASE)
_MOST_DIGITS: Final = 8

T = TypeVar("T")


class KnownHead(Generic[T]):
    """A head that was read, and the bytes that it was: those before its body's length, and after.

    Whatever has the same bytes, and a number in between, says the same to any reader.
    """

    __slots__ = ("_after", "_before", "head", "longest")

    def __init__(self, head: T, before: bytes, after: bytes) -> None:
        self.head = head
        self._before = before
        self._after = after
        self.longest = len(before) + _MOST_DIGITS + len(after)
        """Bytes that a message with this head has before its body, at most."""

    def body_at(self, start: bytes, size: int) -> int:
        """Where the body begins, if `start` is how a message of `size` bytes begins that is whole
        and has this head; else 0."""
        if not start.startswith(self._before):
            return 0
        begin = len(self._before)
        end = start.find(b"\r", begin, begin + _MOST_DIGITS + 1)
        if not (start[begin:end].isdigit() and start.startswith(self._after, end)):
            return 0
        body = end + len(self._after)
        return body if size - body == int(start[begin:end]) else 0


def known(head: T, length: bytes | None, start: bytes, size: int) -> KnownHead[T] | None:
    """`head`, where `start` is how one whole message of `size` bytes begins whose body has the
    `length` that the head gives.

    None otherwise, where `start` holds less than the head, and where its lines end in other ways
    than HTTP's: the parser may know better than we do where such a head ends.
    """
    end = start.find(_END) + len(_END)
    if start.count(b"\n", 0, end) != start.count(b"\r\n", 0, end):
        return None
    stated = _LENGTH.search(start, 0, end)
    if stated is None or stated[1] != length:
        return None
    found = KnownHead(head, start[: stated.start(1)], start[stated.end(1) : end])
    return found if found.body_at(start, size) else None
