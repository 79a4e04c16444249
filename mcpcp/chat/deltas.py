"""A streamed answer of a model, put together from its pieces; pure.

Servers differ in how they stream tool calls: some repeat the id in each piece, some number every
call 0, some send a call whole, some its arguments as an object. A call is known by its id where it
has one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mcpcp.chat.loop import ToolCall


@dataclass(slots=True)
class _Draft:
    index: Any
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's whole answer; `usage` as the server counted it, empty where it did not."""

    text: str
    calls: tuple[ToolCall, ...] = ()
    finish: str | None = None
    usage: dict[str, int] = field(default_factory=dict)
    dropped: bool = False
    """Whether it ended for tool calls that it does not hold, or holds nothing at all."""


class Assembly:
    """Takes the chunks of one answer."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._drafts: list[_Draft] = []
        self._usage: dict[str, int] = {}
        self.finish: str | None = None

    @property
    def begun(self) -> bool:
        """Whether anything of the answer has come: from then on it can't be asked for again."""
        return bool(self._texts or self._drafts)

    def take(self, chunk: dict[str, Any]) -> str:
        """Take one chunk; the text that is new in it."""
        self._usage = usage_of(chunk) or self._usage
        choice = first_choice(chunk)
        delta = choice.get("delta")
        if isinstance(choice.get("finish_reason"), str):
            self.finish = choice["finish_reason"]
        if not isinstance(delta, dict):
            return ""
        for piece in _list(delta.get("tool_calls")):
            self._take_call(piece)
        text = said(delta)
        if text:
            self._texts.append(text)
        return text

    def answer(self) -> Answer:
        """What has come, as a whole."""
        calls = numbered([(d.id, d.name, d.arguments) for d in self._drafts if d.name])
        text = "".join(self._texts)
        silent = not text and self.finish in (None, "stop")
        dropped = not calls and (self.finish == "tool_calls" or silent)
        return Answer(text, calls, self.finish, self._usage, dropped)

    def _take_call(self, piece: dict[str, Any]) -> None:
        function = piece.get("function")
        function = function if isinstance(function, dict) else {}
        name, arguments = _string(function.get("name")), _arguments(function.get("arguments"))
        draft = self._draft(piece.get("index"), _string(piece.get("id")), name)
        if name != draft.name:  # some repeat it in every piece, some cut it
            draft.name += name
        draft.arguments += arguments

    def _draft(self, index: Any, call_id: str, name: str) -> _Draft:
        """The call that a piece belongs to, begun where it is the first."""
        if call_id:
            found = next((d for d in self._drafts if d.id == call_id), None)
        else:
            same = [d for d in self._drafts if d.index == index or index is None]
            found = same[-1] if same else None
            if found is not None and name and found.arguments:  # a name stands at the beginning
                found = None
        if found is None:
            found = _Draft(index, call_id)
            self._drafts.append(found)
        return found


def whole(completion: dict[str, Any]) -> Answer:
    """An answer that came in one piece."""
    choice = first_choice(completion)
    message = choice.get("message")
    message = message if isinstance(message, dict) else {}
    pieces = []
    for call in _list(message.get("tool_calls")):
        function = call.get("function")
        if isinstance(function, dict) and (name := _string(function.get("name"))):
            pieces.append((_string(call.get("id")), name, _arguments(function.get("arguments"))))
    finish = choice.get("finish_reason")
    return Answer(
        said(message),
        numbered(pieces),
        finish if isinstance(finish, str) else None,
        usage_of(completion),
    )


def numbered(pieces: Sequence[tuple[str, str, str]]) -> tuple[ToolCall, ...]:
    """Calls from (id, name, arguments); each gets an id of its own where it has none."""
    calls: list[ToolCall] = []
    taken: set[str] = set()
    for number, (call_id, name, arguments) in enumerate(pieces):
        unique = call_id if call_id and call_id not in taken else f"call_{number}"
        while unique in taken:
            unique += "_"
        taken.add(unique)
        calls.append(ToolCall(unique, name, arguments))
    return tuple(calls)


def said(message: dict[str, Any]) -> str:
    """The text of a message or of a delta; a refusal is one too."""
    content = message.get("content")
    if isinstance(content, list):
        parts = [p.get("text") for p in content if isinstance(p, dict)]
        content = "".join(p for p in parts if isinstance(p, str))
    return _string(content) or _string(message.get("refusal"))


def first_choice(body: dict[str, Any]) -> dict[str, Any]:
    """The first choice of a completion or of a chunk; {} where there is none."""
    choices = _list(body.get("choices"))
    return choices[0] if choices else {}


def usage_of(body: dict[str, Any]) -> dict[str, int]:
    """Tokens that were counted, under OpenAI's names."""
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return {}
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return {n: usage[n] for n in names if type(usage.get(n)) is int}


def _list(value: Any) -> list[dict[str, Any]]:
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _arguments(value: Any) -> str:
    """Arguments as text; some servers send the object itself."""
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)
