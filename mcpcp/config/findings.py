"""What is wrong with a config file: collected whole, so that one run shows every mistake."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from mcpcp.errors import ConfigError

SHOWN = 60


class Expanded(str):
    """A string that came from `${...}`: it may stand for a number, and is not shown in messages."""

    __slots__ = ("source",)
    source: str


@dataclass
class Findings:
    """Problems and warnings of one file, each under the path of its key."""

    file: Path
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def problem(self, at: str, text: str) -> None:
        """The file can't be used: `text` says what was found at key `at` and what helps."""
        self.problems.append(self._line(at, text))

    def warn(self, at: str, text: str) -> None:
        """The file can be used, but `text` is worth knowing."""
        self.warnings.append(self._line(at, text))

    def _line(self, at: str, text: str) -> str:
        return f"{self.file}: {at}: {text}" if at else f"{self.file}: {text}"

    def check(self) -> None:
        """Raise ConfigError with all problems, if there are any."""
        if self.problems:
            raise ConfigError("\n".join(self.problems))


def below(at: str, key: str) -> str:
    """The path of `key` in the object at `at`; quoted where it would mislead as it is."""
    name = key if key.isprintable() and "." not in key and key else json.dumps(key)
    return f"{at}.{name}" if at else name


def is_encodable(text: str) -> bool:
    """Whether the text can be written anywhere: JSON can spell halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def describe(value: object) -> str:
    """A value as a message shows it, by its JSON type."""
    match value:
        case None | True | False:
            return json.dumps(value)
        case Expanded():
            return f"the value of {value.source}"
        case str():
            return json.dumps(value if len(value) <= SHOWN else value[:SHOWN] + "...")
        case int() | float():
            return f"the number {str(value)[:SHOWN]}"
        case list():
            return "a list"
    return "an object"


def suggest(name: str, known: Iterable[str]) -> str:
    """`did you mean ...?`, or what there is to choose from."""
    names = sorted(known)
    by_lower = {n.lower(): n for n in names}
    close = difflib.get_close_matches(name.lower(), by_lower, 1, 0.6)
    if close:
        return f'did you mean "{by_lower[close[0]]}"?'
    return "it may be one of: " + ", ".join(names) if names else "there is none"
