"""What servers say about themselves, without characters that hide or reorder text. Pure.

A description that a model reads and a person can't see is the oldest way to give a model orders:
tag characters, runs of variation selectors, zero-width and bidi characters. Free text is cleaned;
names and values that a call has to repeat can't be changed, so a tool that hides something there
is refused. Ordinary writing stays as it is: emoji with joiners, flags, scripts that need joiners.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Definition = dict[str, Any]

DEEPEST = 64
"""Levels of a definition at most."""

LONGEST_NAME = 128
"""Characters of a tool's name at most, as the protocol recommends."""

_DECEPTIVE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e"  # soft hyphen, joiners, blank letters
    "\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_CONTROL = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff"
_BREAKS = "\u2028\u2029"

_EMOJI = "[\u00a9\u00ae\u2049\u203c-\u3299\U0001f000-\U0001faff][\U0001f3fb-\U0001f3ff]?\ufe0f?"
# The three flags that Unicode recommends; any other sequence of tags is a way to hide text.
_FLAGS = "|".join(
    "\U0001f3f4" + "".join(chr(0xE0000 + ord(c)) for c in region) + "\U000e007f"
    for region in ("gbeng", "gbsct", "gbwls")
)
# Scripts from Hebrew to the Indic and South-East Asian ones, and Mongolian, write with joiners.
_JOINING = "\u05d0-\u17b3\u17b6-\u180d\u180f-\u1cff\ua800-\uabff\ufb50-\ufdff\ufe70-\ufefc"
_KEPT = (
    f"{_FLAGS}"
    f"|{_EMOJI}(?:\u200d{_EMOJI})+"
    f"|(?<=[{_JOINING}])(?<![{_DECEPTIVE}])[\u200c\u200d](?=[{_JOINING}])(?![{_DECEPTIVE}])"
    f"|(?<![{_DECEPTIVE}])(?<=[!-~\u00a0-\u00ac\u00ae-\u1fff\u2010-\u2027\u2030-\u205f\u2070-\ud7ff\ue000-\ufdff"
    "\U00010000-\U000dffff])[\ufe0e\ufe0f]"
    # Ideographs and mathematical signs have variants that are told apart by one selector.
    "|(?<=[\u2200-\u22ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])"
    "[\ufe00-\ufe0d\U000e0100-\U000e01ef]"
)
_SUSPECT = re.compile(f"[{_CONTROL}{_BREAKS}{_DECEPTIVE}]")
_CLEANING = re.compile(f"({_KEPT})|([{_BREAKS}])|[{_CONTROL}{_DECEPTIVE}]")
_HIDING = re.compile(f"({_KEPT})|[{_DECEPTIVE}]")
_SPACES = re.compile(r"\s+")

_TEXTS = frozenset({"description", "title", "$comment", "markdownDescription"})
_VALUES = frozenset({"enum", "const", "default", "examples", "pattern", "required"})
_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})


def clean(text: str) -> str:
    """`text` without hidden and control characters; the very same object where there are none.

    Tabs and line ends stay; line and paragraph separators become line ends.
    """
    if text.isascii() and text.isprintable():
        return text
    if _SUSPECT.search(text) is None:
        return text
    return _CLEANING.sub(lambda found: found[1] or ("\n" if found[2] else ""), text)


def clean_line(text: str) -> str:
    """As `clean`, on one line: for titles, and for what a terminal shows."""
    return _SPACES.sub(" ", clean(text)).strip()


def hides(text: str) -> bool:
    """Whether `text` has characters that can't be seen, beside those that its script needs."""
    if text.isascii():
        return False
    return any(found[1] is None for found in _HIDING.finditer(text))


def is_name(text: object) -> bool:
    """Whether a tool, prompt or argument may be called so: short, and all of it can be seen."""
    if not isinstance(text, str) or not 0 < len(text) <= LONGEST_NAME:
        return False
    return text.isprintable() and text == text.strip() and not hides(text)


@dataclass(frozen=True, slots=True)
class Cleaned:
    """Definitions as agents may see them; `refused` has the name of each other one, and why."""

    kept: tuple[Definition, ...]
    refused: tuple[tuple[str, str], ...] = ()


def clean_all(definitions: Iterable[Definition]) -> Cleaned:
    """Each tool, prompt, resource or template cleaned, or refused for what can't be cleaned."""
    kept, refused = [], []
    for definition in definitions:
        try:
            kept.append(clean_definition(definition))
        except ValueError as error:
            refused.append((clean_line(str(definition.get("name")))[:LONGEST_NAME], str(error)))
    return Cleaned(tuple(kept), tuple(refused))


def clean_definition(definition: Definition) -> Definition:
    """A tool, prompt, resource or template with its free text cleaned, also inside its schemas.

    The very same object where nothing had to change. Raises ValueError, which says why, where a
    name or a value that calls repeat hides something.
    """
    is_resource = "uri" in definition or "uriTemplate" in definition  # its name may be a file's
    if not (is_resource or is_name(definition.get("name"))):
        raise ValueError("its name is not 1 to 128 visible characters")
    cleaned: Definition = _node(definition, 0)
    return cleaned


def _node(value: Any, depth: int) -> Any:
    """An object or list in which texts are under the keys that are known to hold texts."""
    if depth > DEEPEST:
        raise ValueError(f"it is deeper than {DEEPEST} levels")
    if isinstance(value, dict):
        changed = {k: new for k, v in value.items() if (new := _entry(k, v, depth)) is not v}
        return {**value, **changed} if changed else value
    if isinstance(value, list):
        items = [_node(item, depth + 1) for item in value]
        return items if any(a is not b for a, b in zip(items, value, strict=True)) else value
    return value


def _entry(key: str, value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return _text(key, value)
    if key in _NAMED and isinstance(value, Mapping):
        return _named(value, depth + 1)
    if key == "_meta":  # between programs; it is passed on untouched
        return value
    if key in _VALUES:
        _refuse_hiding(value, depth + 1)
        return value
    return _node(value, depth + 1)


def _text(key: str, value: str) -> str:
    if key == "title":
        return value if clean(value) is value else clean_line(value)
    if key in _TEXTS:
        return clean(value)
    if hides(value):
        raise ValueError(f"its {clean_line(key)!r} hides characters")
    return value


def _named(schemas: Mapping[str, Any], depth: int) -> Any:
    """Schemas by name: the keys are names, whatever they look like."""
    for name in schemas:
        if hides(name):
            raise ValueError("a name in its schema hides characters")
    changed = {k: new for k, v in schemas.items() if (new := _node(v, depth + 1)) is not v}
    return {**schemas, **changed} if changed else schemas


def _refuse_hiding(value: Any, depth: int) -> None:
    if depth > DEEPEST:
        raise ValueError(f"it is deeper than {DEEPEST} levels")
    if isinstance(value, str) and hides(value):
        raise ValueError("a value in its schema hides characters")
    if isinstance(value, dict):
        _refuse_hiding(list(value), depth)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in parts:
        _refuse_hiding(part, depth + 1)
