"""How deep JSON may be nested: what can't be passed on must not come in. Pure."""

from __future__ import annotations

from typing import Any, Final

import orjson

_SURELY_FLAT: Final = 200
"""Brackets in a text that can't be nested deeper than orjson writes, which is 254 levels."""


def may_be_deep(text: bytes) -> bool:
    """Whether `text` has so many brackets that its values may be nested too deep."""
    return len(text) > 2 * _SURELY_FLAT and (_is_rich(text, b"{") or _is_rich(text, b"["))


def _is_rich(text: bytes, bracket: bytes) -> bool:
    """Whether there are many of them; searching a text is faster than counting in it."""
    at = -1
    for _ in range(_SURELY_FLAT // 2):
        at = text.find(bracket, at + 1)
        if at < 0:
            return False
    return True


def check(value: Any) -> None:
    """Raise JSONEncodeError where `value` is nested too deep: reading goes deeper than writing."""
    orjson.dumps([[[[[[[[value]]]]]]]])
