"""The search mode: two tools instead of hundreds, and the ranking behind them. Pure.

In this mode an agent's list holds `find_tools` and `call_tool` alone. The gateway answers the first
from an Index of the agent's own view, and takes the second for a call of the tool that it names;
what the agent may not use is in neither.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

Definition = dict[str, Any]

FIND: Final = "find_tools"
CALL: Final = "call_tool"
MOST: Final = 50
USUAL: Final = 8
MOST_WORDS: Final = 32
"""Words of a query that count, so that a long one costs no more."""

DEFINITIONS: Final[tuple[Definition, ...]] = (
    {
        "name": FIND,
        "title": "Find tools",
        "description": (
            "Search the tools that can be called here. Say in a few words what you want to do;"
            " the answer is JSON with the best matching tools' names, descriptions and input"
            f" schemas. Call one of them with {CALL}. An empty query lists tools in order."
        ),
        "inputSchema": {
            "type": "object",
            "properties": {
                "query": {"type": "string", "description": "What you want to do, in a few words."},
                "limit": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": MOST,
                    "default": USUAL,
                    "description": "How many tools to return at most.",
                },
            },
            "required": ["query"],
        },
        "annotations": {"readOnlyHint": True, "idempotentHint": True, "openWorldHint": False},
    },
    {
        "name": CALL,
        "title": "Call a tool",
        "description": f"Call a tool that {FIND} has found.",
        "inputSchema": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "description": f"The tool's name, as {FIND} gave it."},
                "arguments": {
                    "type": "object",
                    "description": "The arguments, as the tool's input schema wants them.",
                },
            },
            "required": ["name"],
        },
    },
)

_K1 = 1.2
_B = 0.6
_NAME, _TEXT, _ARGUMENT = 4.0, 1.0, 1.5
_PREFIX = 4
_PARTIAL = 0.5

_WORD = re.compile(r"[^\W\d_]+|\d+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_UNSPACED = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0eff]{2,}")


def words(text: str) -> list[str]:
    """The words of a text or a name, in small letters; pairs of characters where no spaces are."""
    found = []
    for word in _WORD.findall(_CAMEL.sub(" ", text)):
        if _UNSPACED.fullmatch(word):
            found += [word[i : i + 2] for i in range(len(word) - 1)]
        else:
            found.append(word.casefold())
    return found


@dataclass(frozen=True, slots=True)
class Index:
    """Tools, and how much each says of each word."""

    tools: tuple[Definition, ...]
    weights: tuple[Mapping[str, float], ...]
    frequency: Mapping[str, int]
    average: float

    @classmethod
    def of(cls, tools: Iterable[Definition]) -> Index:
        """An index of tools in the order in which equals are found."""
        listed = tuple(tools)
        weights = tuple(_weights(tool) for tool in listed)
        frequency = Counter(word for said in weights for word in said)
        total = sum(sum(said.values()) for said in weights)
        return cls(listed, weights, frequency, total / len(listed) if listed and total else 1.0)

    def find(self, query: str, limit: int = USUAL) -> tuple[Definition, ...]:
        """The tools that match best, the best first; an empty query finds the first ones.

        BM25 over names, titles, descriptions and arguments; the beginning of a word counts half.
        """
        wanted = dict.fromkeys(words(query[: 40 * MOST_WORDS]))
        if not wanted:
            return () if query.strip() else self.tools[:limit]
        terms = [term for word in islice(wanted, MOST_WORDS) for term in self._terms(word)]
        scores = [self._score(said, terms) for said in self.weights]
        ranked = sorted(range(len(scores)), key=lambda n: -scores[n])
        return tuple(self.tools[n] for n in ranked[:limit] if scores[n] > 0)

    def _terms(self, word: str) -> list[tuple[str, float]]:
        """The words of the index that `word` means, and how much each is worth."""
        terms = []
        for known, count in self.frequency.items():
            factor = _likeness(word, known)
            if factor:
                rarity = math.log(1 + (len(self.tools) - count + 0.5) / (count + 0.5))
                terms.append((known, factor * rarity))
        return terms

    def _score(self, said: Mapping[str, float], terms: Sequence[tuple[str, float]]) -> float:
        length = _K1 * (1 - _B + _B * sum(said.values()) / self.average)
        score = 0.0
        for word, worth in terms:
            weight = said.get(word)
            if weight:
                score += worth * weight * (_K1 + 1) / (weight + length)
        return score


def find(tools: Iterable[Definition], query: str, limit: int = USUAL) -> tuple[Definition, ...]:
    """The tools that match `query` best; for many queries of the same tools make an Index."""
    return Index.of(tools).find(query, limit)


def answer(index: Index, arguments: object) -> dict[str, Any]:
    """The result of a call of `find_tools`; mistakes in its arguments are its answer as well."""
    given = arguments if isinstance(arguments, dict) else {}
    query, limit = given.get("query"), given.get("limit", USUAL)
    if not isinstance(query, str):
        return _said("query must be a text that says what you want to do", failed=True)
    if type(limit) is not int or not 1 <= limit <= MOST:
        return _said(f"limit must be a whole number from 1 to {MOST}", failed=True)
    found = [_shown(tool) for tool in index.find(query, limit)]
    result = {"tools": found, "total": len(index.tools)}
    return _said(json.dumps(result, ensure_ascii=False, separators=(",", ":")))


def target(arguments: object) -> tuple[str, dict[str, Any]]:
    """Name and arguments of the tool that a call of `call_tool` means; ValueError for none."""
    given = arguments if isinstance(arguments, dict) else {}
    name, passed = given.get("name"), given.get("arguments")
    if not isinstance(name, str) or name in (FIND, CALL):
        raise ValueError(f"name must be a tool's name, as {FIND} gives it")
    if not isinstance(passed, dict | None):
        raise ValueError("arguments must be an object")  # noqa: TRY004 - a value from outside
    return name, passed or {}


def _weights(tool: Definition) -> Mapping[str, float]:
    """How much a tool says of each word: its name most."""
    said: dict[str, float] = {}
    for text, weight in _texts(tool):
        for word in words(text):
            said[word] = said.get(word, 0.0) + weight
    return said


def _texts(tool: Definition) -> Iterable[tuple[str, float]]:
    for key, weight in (("name", _NAME), ("title", _TEXT), ("description", _TEXT)):
        yield _text(tool.get(key)), weight
    schema = tool.get("inputSchema")
    properties = schema.get("properties") if isinstance(schema, dict) else None
    for name, argument in properties.items() if isinstance(properties, dict) else ():
        yield name, _ARGUMENT
        yield _text(argument.get("description") if isinstance(argument, dict) else None), _TEXT / 2


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _likeness(word: str, known: str) -> float:
    """1 for the same word, less for a longer form: `file` and `files`, `read` and `reading`."""
    if word == known:
        return 1.0
    if len(word) < _PREFIX or len(known) < _PREFIX:
        return 0.0
    return _PARTIAL if word.startswith(known) or known.startswith(word) else 0.0


def _shown(tool: Definition) -> Definition:
    return {
        key: tool[key]
        for key in ("name", "title", "description", "inputSchema", "annotations")
        if key in tool
    }


def _said(text: str, *, failed: bool = False) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}], **({"isError": True} if failed else {})}
