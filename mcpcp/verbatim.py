"""Results that pass as they were written: looked through, and kept to be sent. Pure.

Making values of an answer of 100 kB costs as much as everything else that is done for it, and
writing them again costs that once more. So an answer in the form that servers use keeps its
result's bytes, and of its members are read only those that a gateway decides by. The bytes are one
JSON object, looked through by itself, on one line: nothing in them can pass for an envelope, or
for another message, wherever they are written.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
import orjson

from mcpcp import depth
from mcpcp.errors import ProtocolError

_GAP: Final = rb"[ \t\r\n]*"
_NAME: Final = rb'"jsonrpc" : "2\.0" , "id" : (0|[1-9][0-9]{0,14})'


def _pattern(text: bytes) -> re.Pattern[bytes]:
    return re.compile(text.replace(b" ", _GAP))


_RESULT_LAST: Final = _pattern(rb' \{ %b , "result" : (?=\{ ")' % _NAME)
_RESULT_FIRST: Final = _pattern(rb' \{ "result" : (?=\{ ")')
_NAME_LAST: Final = _pattern(rb", %b \} \Z" % _NAME)
_LONGEST_END: Final = 80
LONG: Final = 2048
"""Bytes of an answer from which on finding its result takes less time than writing it again."""


class _Known(msgspec.Struct):
    """The members of a result that a gateway decides by."""

    isError: Any = None
    resultType: Any = msgspec.UNSET
    ttlMs: Any = msgspec.UNSET
    cacheScope: Any = msgspec.UNSET

    @property
    def is_legacy(self) -> bool:
        """Whether nothing in it is of the modern era."""
        return self.resultType is self.ttlMs is self.cacheScope is msgspec.UNSET


_KNOWN: Final = msgspec.json.Decoder(_Known)


class Verbatim:
    """A result that is complete, and the `text` that it came in: an object with members."""

    __slots__ = ("_added", "failed", "modern", "text")

    def __init__(self, text: memoryview, *, failed: bool, modern: bool, added: bytes = b"") -> None:
        self.text = text
        self.failed = failed
        """Whether a tool says that it failed."""
        self.modern = modern
        """Whether it has the members that the modern era demands."""
        self._added = added

    @property
    def pieces(self) -> tuple[bytes | memoryview, ...]:
        """Its JSON text; it begins with what was added."""
        return (self._added, self.text[1:]) if self._added else (self.text,)

    def read(self) -> dict[str, Any]:
        """What it says; ProtocolError where it has a number that no float can hold."""
        try:
            result: dict[str, Any] = orjson.loads(b"".join(self.pieces))
        except orjson.JSONDecodeError as error:
            raise ProtocolError(f"the server's answer is not readable: {error}") from None
        return result

    def modernized(self, members: dict[str, Any]) -> Verbatim:
        """The same with `members` that the modern era demands; a legacy result has none of them."""
        added = orjson.dumps(members)[:-1] + b","
        return Verbatim(self.text, failed=self.failed, modern=True, added=added)


def failed(result: Any) -> bool:
    """Whether a tool says in its result that it failed."""
    if type(result) is Verbatim:
        return result.failed
    return isinstance(result, dict) and bool(result.get("isError"))


def whole(result: Any) -> Any:
    """What a result says, however it was kept."""
    return result.read() if type(result) is Verbatim else result


def read_answer(raw: bytes) -> dict[str, Any] | None:
    """The answer, with a Verbatim result; None where `raw` has to be read as any message has.

    Raises nothing: what is no JSON is for others to refuse.
    """
    if len(raw) < LONG:
        return None
    found = _find_result(raw)
    if found is None:
        return None
    request_id, begin, end = found
    # Where a line is a message, each line of a result would be one.
    if raw.find(b"\n", begin, end) >= 0 or raw.find(b"\r", begin, end) >= 0:
        return None
    text = memoryview(raw)[begin:end]
    try:
        known = _look_through(raw, text)
    except (msgspec.DecodeError, orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None
    modern = known.resultType == "complete"
    if not modern and not known.is_legacy:
        return None
    result = Verbatim(text, failed=bool(known.isError), modern=modern)
    return {"jsonrpc": "2.0", "id": request_id, "result": result}


def _find_result(raw: bytes) -> tuple[int, int, int] | None:
    """The id, and where what may be the result begins and ends: whether it is, reading it shows."""
    head = _RESULT_LAST.match(raw)
    if head is not None:
        end = raw.rfind(b"}")
        rest = raw[end + 1 :]
        return None if rest.strip(b" \t\r\n") else (int(head[1]), head.end(), end)
    head = _RESULT_FIRST.match(raw)
    if head is None:
        return None
    tail = _NAME_LAST.search(raw, max(head.end(), len(raw) - _LONGEST_END))
    return None if tail is None else (int(tail[1]), head.end(), tail.start())


def _look_through(raw: bytes, text: memoryview) -> _Known:
    """What a gateway has to know of `text`, a part of `raw`; raises where that is no JSON.

    Going through it makes no values, but tells neither how deep it goes nor what is no UTF-8.
    """
    if raw.isascii() and not depth.may_be_deep(raw):
        return _KNOWN.decode(text)
    value = orjson.loads(text)
    depth.check(value)
    return _Known(**{name: value[name] for name in _Known.__struct_fields__ if name in value})


def pieces(value: Any) -> tuple[bytes | memoryview, ...]:
    """A message's JSON text: in one piece, or with a result's own text between two others.

    Sent one after the other they cost no copy of what is long.
    """
    result = value.get("result") if type(value) is dict else None
    if type(result) is not Verbatim:
        return (orjson.dumps(value),)
    head = b'{"jsonrpc":"2.0","id":%b,"result":' % orjson.dumps(value["id"])
    return (head, *result.pieces, b"}")
