"""Heads of requests: what they say, and those that a connection need not read again. Pure.

A client sends the same head with each of its requests, but for the length of what follows. Reading
one costs several microseconds, comparing it to the last one a few hundred nanoseconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

_END: Final = b"\r\n\r\n"
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,8})(?=\r\n)", re.IGNORECASE)
_MOST_DIGITS: Final = 8


class Head:
    """What a request says before its body; it outlives the request where the next says the same."""

    __slots__ = ("_texts", "bearer", "chunks", "headers", "keep_alive", "method", "path", "query")

    def __init__(
        self,
        method: bytes,
        target: bytes,
        headers: Mapping[bytes, bytes],
        *,
        keep_alive: bool,
        chunks: bool,
    ) -> None:
        path, _, self.query = target.decode("latin-1").partition("?")
        self.method = method.decode("latin-1")
        self.path = (unquote(path) if "%" in path else path).rstrip("/") or "/"
        self.headers = headers
        self.keep_alive = keep_alive
        self.chunks = chunks
        """Whether the client understands an answer in chunks."""
        self.bearer = _bearer(headers.get(b"authorization"))
        """The token of the Authorization header; an empty one where the header holds none."""
        self._texts: dict[bytes, str | None] = {}

    def text(self, name: bytes) -> str | None:
        """A header's value without the white space around it; `name` in lower case."""
        try:
            return self._texts[name]
        except KeyError:
            value = self.headers.get(name)
            text = self._texts[name] = None if value is None else value.decode("latin-1").strip()
            return text


def _bearer(authorization: bytes | None) -> str | None:
    if authorization is None:
        return None
    scheme, _, token = authorization.strip().partition(b" ")
    return token.strip().decode("latin-1") if scheme.lower() == b"bearer" else ""


class KnownHead:
    """A head that was read, and the bytes that it was: those before its body's length, and after.

    Whatever has the same bytes, and a number in between, says the same to any reader.
    """

    __slots__ = ("_after", "_before", "head")

    def __init__(self, head: Head, before: bytes, after: bytes) -> None:
        self.head = head
        self._before = before
        self._after = after

    def body_in(self, data: bytes) -> bytes | None:
        """The body, where `data` is one whole request with this head; else None."""
        if not data.startswith(self._before):
            return None
        start = len(self._before)
        end = data.find(b"\r", start, start + _MOST_DIGITS + 1)
        if not (data[start:end].isdigit() and data.startswith(self._after, end)):
            return None
        begin = end + len(self._after)
        return data[begin:] if len(data) - begin == int(data[start:end]) else None


def known(head: Head, data: bytes) -> KnownHead | None:
    """`head`, the first in `data`, where that is one whole request whose body has a length given.

    None otherwise, and where its lines end in other ways than HTTP's: the parser may know better
    than we do where such a head ends.
    """
    end = data.find(_END) + len(_END)
    if data.count(b"\n", 0, end) != data.count(b"\r\n", 0, end):
        return None
    length = _LENGTH.search(data, 0, end)
    if length is None or length[1] != head.headers.get(b"content-length"):
        return None
    found = KnownHead(head, data[: length.start(1)], data[length.end(1) : end])
    return None if found.body_in(data) is None else found
