"""Edits of JSON texts that leave everything else in them as its author wrote it. (pure)"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()
_NOISE = re.compile(
    r'("(?:[^"\\\n]|\\.)*")'  # a string, in which nothing is noise
    r"|//[^\n]*|/\*.*?\*/"  # comments
    r"|,(?=(?:\s|//[^\n]*|/\*.*?\*/)*[\]}])",  # a comma before a closing bracket
    re.DOTALL,
)


def without_comments(text: str) -> str:
    """JSON with comments and trailing commas, as VS Code has it, as JSON of the same lines."""
    return _NOISE.sub(lambda match: match[1] or re.sub(r"[^\n]", " ", match[0]), text)


def with_members(text: str, key: str, members: Mapping[str, Any]) -> str:
    """The JSON object `text` with `members` added to, or replaced in, its object `key`.

    `text` is valid JSON with an object at its root, and one at `key` if that is there.
    """
    if not text.strip():
        text = "{}\n"
    spans = _members(text, text.index("{"))
    if key not in spans:
        return _put(text, text.index("{"), key, {}, members)
    start, _ = spans[key]
    for name, value in members.items():
        text = _set(text, start, name, value)
    return text


def _put(text: str, start: int, key: str, empty: Any, members: Mapping[str, Any]) -> str:
    text = _set(text, start, key, empty)
    inner, _ = _members(text, start)[key]
    for name, value in members.items():
        text = _set(text, inner, name, value)
    return text


def _set(text: str, start: int, name: str, value: Any) -> str:
    """`text` with `name` set in the object that begins at `start`."""
    spans = _members(text, start)
    indent = _indent_of_members(text, start, spans)
    written = json.dumps(value, indent=2, ensure_ascii=False).replace("\n", f"\n{indent}")
    if name in spans:
        begin, end = spans[name]
        return text[:begin] + written + text[end:]
    member = f"{json.dumps(name, ensure_ascii=False)}: {written}"
    if spans:
        last = max(end for _, end in spans.values())
        return f"{text[:last]},\n{indent}{member}{text[last:]}"
    close = _skip_space(text, start + 1)
    outer = indent[: -len(_unit(text))]
    return f"{text[: start + 1]}\n{indent}{member}\n{outer}{text[close:]}"


def _members(text: str, start: int) -> dict[str, tuple[int, int]]:
    """Where each member's value lies in the object that begins at `start`."""
    spans: dict[str, tuple[int, int]] = {}
    at = _skip_space(text, start + 1)
    while text[at] == '"':
        name, at = _DECODER.raw_decode(text, at)
        begin = _skip_space(text, _skip_space(text, at) + 1)
        _, end = _DECODER.raw_decode(text, begin)
        spans[name] = (begin, end)
        at = _skip_space(text, end)
        if text[at] == ",":
            at = _skip_space(text, at + 1)
    return spans


def _indent_of_members(text: str, start: int, spans: Mapping[str, tuple[int, int]]) -> str:
    line = text[text.rfind("\n", 0, start) + 1 : start]
    outer = line[: len(line) - len(line.lstrip())]
    if not spans:
        return outer + _unit(text)
    first = _skip_space(text, start + 1)
    before = text[start + 1 : first]
    return before.rpartition("\n")[2] if "\n" in before else outer + _unit(text)


def _unit(text: str) -> str:
    """One step of indentation as this text has it."""
    match = re.search(r'\{[ \t]*\r?\n([ \t]+)"', text)
    return match[1] if match else "  "


def _skip_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at
