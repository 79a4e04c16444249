"""Results that pass as they were written: read to be looked at, and kept to be sent. Pure.

Reading an answer of 100 kB costs as much as everything else that is done for it, and writing it
again costs that once more. So an answer in the form that servers use keeps its result's bytes. They
are one JSON value, read by itself, on one line: nothing in them can pass for an envelope, or for
another message, wherever they are written.
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

_GAP: Final = rb"[ \t\r\n]*"
_NAME: Final = rb'"jsonrpc" : "2\.0" , "id" : (0|[1-9][0-9]{0,14})'


def _pattern(text: bytes) -> re.Pattern[bytes]:
    return re.compile(text.replace(b" ", _GAP))


_RESULT_LAST: Final = _pattern(rb' \{ %b , "result" : (?=\{)' % _NAME)
_RESULT_FIRST: Final = _pattern(rb' \{ "result" : (?=\{)')
_NAME_LAST: Final = _pattern(rb", %b \} \Z" % _NAME)
_LONGEST_END: Final = 80
LONG: Final = 2048
"""Bytes of an answer from which on finding its result takes less time than writing it again."""


class Verbatim(dict[str, Any]):
    """A result and the `text` that it was read from; whoever changes it makes a plain dict."""

    __slots__ = ("text",)

    text: memoryview


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
        result = Verbatim(orjson.loads(text))
    except orjson.JSONDecodeError:
        return None
    result.text = text
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


def pieces(value: Any) -> tuple[bytes | memoryview, ...]:
    """A message's JSON text: in one piece, or with a result's own text between two others.

    Sent one after the other they cost no copy of what is long.
    """
    result = value.get("result") if type(value) is dict else None
    if type(result) is not Verbatim:
        return (orjson.dumps(value),)
    return (b'{"jsonrpc":"2.0","id":%b,"result":' % orjson.dumps(value["id"]), result.text, b"}")
