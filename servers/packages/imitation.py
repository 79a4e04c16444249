"""Names that can be mistaken for a well-known one: typing slips, look-alikes, decorations.

`popular.txt` is the list of well-known names; scripts/popular-packages makes it.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

_DECORATIONS = ("python3", "python", "py3", "py", "lib", "api", "sdk", "client", "official", "dev")
_LOOK_ALIKES = str.maketrans("01358", "olesb")
_SHORTEST = 5
"""Below this length, one letter more or less makes another honest name too often."""

_LONG = 12
"""From this length on, two slips still show which name is meant."""


class Known:
    """Well-known names, arranged to be asked which of them another name looks like."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)
        self._skeletons = {_skeleton(n): n for n in sorted(self.names, reverse=True)}
        self._words = {_words(n): n for n in sorted(self.names, reverse=True) if "-" in n}
        by_length: defaultdict[int, list[str]] = defaultdict(list)
        for name in sorted(self.names):
            by_length[len(name)].append(name)
        self._by_length: Mapping[int, list[str]] = by_length

    def imitated_by(self, name: str) -> str | None:
        """The well-known name that a normalized name may be mistaken for; None for itself."""
        if name in self.names:
            return None
        return (
            self._skeletons.get(_skeleton(name))
            or self._words.get(_words(name))
            or self._decorated(name)
            or self._mistyped(name)
        )

    def _decorated(self, name: str) -> str | None:
        bare = name.rstrip("0123456789").rstrip("-")
        if bare != name and len(bare) >= _SHORTEST and bare in self.names:
            return bare
        for word in _DECORATIONS:
            for rest in (name.removeprefix(word), name.removesuffix(word)):
                rest = rest.strip("-")
                # "pywhat" is a name of its own where "python-what" is a decorated one
                dashed = len(rest) < len(name) - len(word)
                if rest != name and rest in self.names and (dashed or len(rest) >= _SHORTEST):
                    return rest
        return None

    def _mistyped(self, name: str) -> str | None:
        if len(name) < _SHORTEST - 1:
            return None
        for length in range(len(name) - 2, len(name) + 3):
            for known in self._by_length.get(length, ()):
                if is_slip(name, known):
                    return known
        return None


def _skeleton(name: str) -> str:
    """What is left of a name to a quick eye: look-alikes are one, separators are gone."""
    bare = name.replace("-", "").translate(_LOOK_ALIKES)
    return bare.replace("rn", "m").replace("vv", "w").replace("i", "l")


def _words(name: str) -> tuple[str, ...]:
    return tuple(sorted(name.split("-")))


def is_slip(name: str, known: str) -> bool:
    """Whether one slip of the fingers lies between the two; in long names two."""
    shorter = min(len(name), len(known))
    if shorter < _SHORTEST - 1:
        return False
    if shorter < _SHORTEST:  # only neighbours that changed places
        return sorted(name) == sorted(known) and distance(name, known, 1) == 1
    most = 2 if shorter >= _LONG else 1
    return abs(len(name) - len(known)) <= most and distance(name, known, most) <= most


def distance(a: str, b: str, most: int) -> int:
    """Letters to insert, delete, replace or swap with their neighbour; `most + 1` for more."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        older, before, row = before, row, [i]
        for j, y in enumerate(b, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and y == a[i - 2]:
                cost = min(cost, older[j - 2] + 1)
            row.append(cost)
        if min(row) > most:
            return most + 1
    return min(row[-1], most + 1)


@cache
def well_known() -> Known:
    """The shipped list, read when it is first needed."""
    text = Path(__file__).with_name("popular.txt").read_text("ascii")
    return Known(text.split())


def is_standard_library(name: str) -> bool:
    """Whether Python itself has a module of this name: nobody need install it."""
    return name.replace("-", "_") in sys.stdlib_module_names
