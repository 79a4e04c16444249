"""The format: JSON lines, each ends in the SHA-256 of the hash before it and its bytes. (pure)"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import orjson

Outcome = Literal[
    "ok",
    "error",
    "denied",
    "unknown",
    "interrupted",
    "unavailable",
    "timeout",
    "cancelled",
    "refused",
]

GENESIS = "0" * 64
_MARK = b',"hash":"'
_END = b'"}\n'
_TAIL = len(_MARK) + 64 + len(_END)
_LONGEST = 256


@dataclass
class CallRecord:
    """What is kept of one call: who, what, how it went; never tokens, arguments or results.

    Made and written once a call: frozen, or with slots, it takes twice as long.
    """

    agent: str
    token_id: str
    session: str
    server: str
    tool: str
    method: str
    outcome: Outcome
    reason: str = ""
    duration_ms: float = 0.0
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """One line that was read: its number, the hash that it states, and the one that it should."""

    number: int
    stated: str
    computed: str
    fields: dict[str, Any]


def body_of(record: CallRecord) -> bytes:
    """The record as JSON; texts that came from clients are cut and made encodable."""
    try:
        body = orjson.dumps(record)
    except orjson.JSONEncodeError:
        body = b""
    if body and len(body) < _LONGEST * 4:
        return body
    return orjson.dumps({name: _tame(value) for name, value in vars(record).items()})


def _tame(value: str | float) -> str | float:
    if not isinstance(value, str):
        return value
    return value[:_LONGEST].encode("utf-8", "backslashreplace").decode()


def seal(body: bytes, number: int, time: float, head: str) -> tuple[bytes, str]:
    """The line for the JSON object `body` as record `number`, and the chain's new head."""
    line = b'{"n":%d,"ts":%.6f,%b' % (number, time, body[1:-1])
    digest = hashlib.sha256(head.encode())
    digest.update(line)
    new = digest.hexdigest()
    return b"%b%b%b%b" % (line, _MARK, new.encode(), _END), new


def read_line(line: bytes, head: str) -> Link | None:
    """The line as a link after `head`; None where it does not have the form of a record."""
    if line[-_TAIL : len(line) - _TAIL + len(_MARK)] != _MARK or not line.endswith(_END):
        return None
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    number, stated = fields.get("n"), fields.get("hash")
    if type(number) is not int or not isinstance(stated, str):
        return None
    computed = hashlib.sha256(head.encode() + line[:-_TAIL]).hexdigest()
    return Link(number, stated, computed, fields)
