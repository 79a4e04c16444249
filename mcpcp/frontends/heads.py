"""Heads of requests: what they say. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote


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
