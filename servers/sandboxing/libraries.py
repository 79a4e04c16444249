"""The libraries that sandboxes show: those of the extra `sandbox`, where this Python has them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

WANTED = ("numpy", "pandas", "matplotlib")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@cache
def libraries(wanted: tuple[str, ...] = WANTED) -> tuple[Path, ...]:
    """Folders and files right below site-packages that make up these and what they need.

    Each once: packages may share a folder, and no engine takes an image that has a path twice.
    """
    return tuple(sorted({path for found in _closure(wanted) for path in _parts(found)}))


def _closure(wanted: tuple[str, ...]) -> Iterator[Distribution]:
    seen: set[str] = set()
    waiting = list(wanted)
    while waiting:
        name = waiting.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in seen:
            continue
        seen.add(key)
        try:
            found = distribution(name)
        except PackageNotFoundError:  # not asked for, or another platform's
            continue
        yield found
        waiting += _needs(found)


def _needs(found: Distribution) -> Iterator[str]:
    for requirement in found.requires or ():
        name, _, marker = requirement.partition(";")
        match = _NAME.match(name)
        if match and "extra" not in marker:
            yield match.group()


def _parts(found: Distribution) -> set[Path]:
    """Not what lies beside site-packages, like programs in bin."""
    root = Path(str(found.locate_file("")))
    tops = {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "/")}
    return {root / top for top in tops if top != "__pycache__" and (root / top).exists()}
