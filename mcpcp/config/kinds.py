"""Kinds of values in the config file: each reads JSON and describes itself as JSON Schema."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

from mcpcp import constraints
from mcpcp.config.findings import (
    Expanded,
    Findings,
    below,
    describe,
    is_encodable,
    suggest,
)

BAD: Any = object()
"""What `read` returns for a value that it has reported as a problem."""

Schema = dict[str, Any]
VARIABLE: Schema = {"type": "string", "pattern": r"\$\{"}


class Kind(Protocol):
    """A kind of value."""

    def read(self, value: Any, at: str, found: Findings) -> Any:
        """The value as Python has it; BAD after reporting what is wrong with it."""

    def schema(self) -> Schema:
        """The same rules as JSON Schema."""


@dataclass(frozen=True)
class Text:
    """A string; `rule` says in words what `pattern` asks for."""

    pattern: str = r"[^\0]*"
    rule: str = "text without NUL characters"

    def read(self, value: Any, at: str, found: Findings) -> Any:
        if not isinstance(value, str):
            hint = f': write "{value}"' if type(value) in (int, float) else ""
            found.problem(at, f"must be a string, found {describe(value)}{hint}")
            return BAD
        if not (re.fullmatch(self.pattern, value, re.DOTALL) and is_encodable(value)):
            found.problem(at, f"must be {self.rule}, found {describe(value)}")
            return BAD
        return str(value)

    def schema(self) -> Schema:
        return {"type": "string"}


@dataclass(frozen=True)
class Url:
    """An http or https URL."""

    def read(self, value: Any, at: str, found: Findings) -> Any:
        text = Text().read(value, at, found)
        if text is BAD:
            return BAD
        try:
            parts = urlsplit(text)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            found.problem(at, f"must be an http or https URL, found {describe(value)}")
            return BAD
        return text

    def schema(self) -> Schema:
        return {"type": "string"}


@dataclass(frozen=True)
class Choice:
    """One of a few words; `aliases` are other clients' spellings."""

    words: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)

    def read(self, value: Any, at: str, found: Findings) -> Any:
        if isinstance(value, str):
            word = self.aliases.get(value, str(value))
            if word in self.words:
                return word
            found.problem(at, f"{describe(value)} is unknown; {suggest(value, self.words)}")
        else:
            found.problem(at, f"must be one of {', '.join(self.words)}, found {describe(value)}")
        return BAD

    def schema(self) -> Schema:
        return {"anyOf": [{"enum": [*self.words, *self.aliases]}, VARIABLE]}


@dataclass(frozen=True)
class Flag:
    """true or false."""

    def read(self, value: Any, at: str, found: Findings) -> Any:
        if isinstance(value, Expanded) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if not isinstance(value, bool):
            found.problem(at, f"must be true or false, found {describe(value)}")
            return BAD
        return value

    def schema(self) -> Schema:
        return {"anyOf": [{"type": "boolean"}, VARIABLE]}


@dataclass(frozen=True)
class Whole:
    """A whole number between two limits."""

    low: int
    high: int

    def read(self, value: Any, at: str, found: Findings) -> Any:
        if isinstance(value, Expanded) and re.fullmatch(r"[0-9]{1,18}", value):
            value = int(value)
        if type(value) is not int or not self.low <= value <= self.high:
            found.problem(
                at,
                f"must be a whole number from {self.low} to {self.high}, found {describe(value)}",
            )
            return BAD
        return value

    def schema(self) -> Schema:
        number = {"type": "integer", "minimum": self.low, "maximum": self.high}
        return {"anyOf": [number, VARIABLE]}


@dataclass(frozen=True)
class Quantity:
    """A number, or a number with a unit: `units` maps each unit to its size."""

    units: Mapping[str, float]
    unit: str
    example: str
    low: float = 0.0
    high: float = math.inf

    def read(self, value: Any, at: str, found: Findings) -> Any:
        number = self._number(value)
        if number is None or not self._fits(number):
            found.problem(
                at,
                f'must be a number ({self.unit}) or a text such as "{self.example}",'
                f"{self._range()} found {describe(value)}",
            )
            return BAD
        return number

    def parse(self, text: str) -> float | None:
        """The number that `text` means, a bare one too; None where it means none."""
        number = self._number(Expanded(text))
        return number if number is not None and self._fits(number) else None

    def _fits(self, number: float) -> bool:
        return self.low <= number <= self.high and math.isfinite(number)

    def _range(self) -> str:
        return f" from {self.low:g} to {self.high:g}," if self.units is not BYTES else ""

    def _number(self, value: Any) -> float | None:
        if type(value) in (int, float):
            return math.inf if value > self.high else float(value)
        if not isinstance(value, str):
            return None
        match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([A-Za-z]*)", value)
        if not match:
            return None
        number, unit = match.groups()
        if not unit:
            return float(number) if isinstance(value, Expanded) else None
        size = self.units.get(unit.lower())
        return None if size is None else float(number) * size

    def schema(self) -> Schema:
        names = "|".join(self.units)
        text = {"type": "string", "pattern": rf"^[0-9]+(\.[0-9]+)? ?({names})$|\$\{{"}
        if self.units is BYTES:  # its units are written in any case
            text["pattern"] = r"^[0-9]+(\.[0-9]+)? ?[KkMmGg]?[Ii]?[Bb]?$|\$\{"
        return {"anyOf": [{"type": "number", "minimum": self.low}, text]}


BYTES = {
    "b": 1,
    **{"kb": 1e3, "mb": 1e6, "gb": 1e9},
    **{"kib": 2**10, "mib": 2**20, "gib": 2**30},
    **{"k": 2**10, "m": 2**20, "g": 2**30},  # as docker writes them
}


def duration(unit: str = "seconds", low: float = 0.0, high: float = 1e7) -> Quantity:
    """Time: a bare number counts `unit`."""
    size = {"seconds": 1.0, "minutes": 60.0}[unit]
    units = {"ms": 0.001 / size, "s": 1 / size, "m": 60 / size, "h": 3600 / size, "d": 86400 / size}
    return Quantity(units, unit, "30s", low, high)


def memory() -> Quantity:
    """Bytes, at least one MiB: less is a forgotten unit."""
    return Quantity(BYTES, "bytes", "512MiB", low=2**20, high=2.0**60)


@dataclass(frozen=True)
class Constraint:
    """A JSON Schema that the arguments of a call must meet."""

    def read(self, value: Any, at: str, found: Findings) -> Any:
        problem = constraints.fault(value)
        if problem:
            found.problem(at, problem.encode("utf-8", "replace").decode())
            return BAD
        return value

    def schema(self) -> Schema:
        return {"type": "object"}


@dataclass(frozen=True)
class ListOf:
    """A list of values of one kind."""

    item: Kind

    def read(self, value: Any, at: str, found: Findings) -> Any:
        if not isinstance(value, list):
            found.problem(at, f"must be a list, found {describe(value)}")
            return BAD
        items = [self.item.read(v, f"{at}[{i}]", found) for i, v in enumerate(value)]
        return tuple(v for v in items if v is not BAD)

    def schema(self) -> Schema:
        return {"type": "array", "items": self.item.schema()}


@dataclass(frozen=True)
class MapOf:
    """An object whose keys are names of the user's choice; entries with problems are left out."""

    item: Kind
    name_pattern: str = r"[^\0]+"
    name_rule: str = "a name"

    def read(self, value: Any, at: str, found: Findings) -> Any:
        if not isinstance(value, dict):
            found.problem(at, f"must be an object, found {describe(value)}")
            return BAD
        values = {}
        for name, entry in value.items():
            where = below(at, name)
            if not self._is_name(name):
                found.problem(where, f"a name here must be {self.name_rule}{self._better(name)}")
            values[name] = self.item.read(entry, where, found)
        return {name: value for name, value in values.items() if value is not BAD}

    def _is_name(self, name: str) -> bool:
        return re.fullmatch(self.name_pattern, name) is not None and is_encodable(name)

    def _better(self, name: str) -> str:
        better = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:32]
        return f'; try "{better}"' if self._is_name(better) else ""

    def schema(self) -> Schema:
        return {
            "type": "object",
            "additionalProperties": self.item.schema(),
            "propertyNames": {"pattern": f"^(?:{self.name_pattern})$"},
        }


@dataclass(frozen=True)
class Nullable:
    """A value, or null."""

    kind: Kind

    def read(self, value: Any, at: str, found: Findings) -> Any:
        return None if value is None else self.kind.read(value, at, found)

    def schema(self) -> Schema:
        return {"anyOf": [self.kind.schema(), {"type": "null"}]}


@dataclass(frozen=True)
class Key:
    """One key of a section: `doc` is what schema and documentation say about it."""

    name: str
    kind: Kind
    doc: str
    default: Any = None
    required: bool = False
    aliases: tuple[str, ...] = ()

    def schema(self) -> Schema:
        default = {} if self.default is None else {"default": self.default}
        return {"description": self.doc, **default, **self.kind.schema()}


@dataclass(frozen=True)
class Section:
    """An object with known keys; `ignored` are other clients' keys, and why each does nothing."""

    keys: tuple[Key, ...]
    ignored: Mapping[str, str] = field(default_factory=dict)

    def read(self, value: Any, at: str, found: Findings) -> Any:
        """The values of the keys that are there, BAD if there is anything wrong with one."""
        before = len(found.problems)
        values = self.read_parts(value, at, found)
        return values if len(found.problems) == before else BAD

    def read_parts(self, value: Any, at: str, found: Findings) -> Any:
        """The values of the keys that are there and good, under their main names."""
        if not isinstance(value, dict):
            found.problem(at, f"must be an object, found {describe(value)}")
            return BAD
        by_name = {name: key for key in self.keys for name in (key.name, *key.aliases)}
        values: dict[str, Any] = {}
        for name, entry in value.items():
            where = below(at, name)
            if name in by_name:
                self._take(by_name[name], entry, where, values, found)
            else:
                self._stranger(name, where, found)
        for key in self.keys:
            if key.required and key.name not in values:
                found.problem(at, f'"{key.name}" is missing: {key.doc}')
        return {name: value for name, value in values.items() if value is not BAD}

    def _take(
        self, key: Key, entry: Any, where: str, values: dict[str, Any], found: Findings
    ) -> None:
        if key.name in values:
            found.problem(where, f'says the same as "{key.name}", which is there too')
        values[key.name] = key.kind.read(entry, where, found)

    def _stranger(self, name: str, where: str, found: Findings) -> None:
        if is_comment(name):
            return
        if name in self.ignored:
            found.warn(where, f"does nothing here: {self.ignored[name]}")
            return
        found.problem(where, f"unknown key; {suggest(name, [k.name for k in self.keys])}")

    def schema(self) -> Schema:
        properties = {k.name: k.schema() for k in self.keys}
        for key in self.keys:
            for alias in key.aliases:
                properties[alias] = {**key.schema(), "description": f"The same as {key.name}."}
        for name, why in self.ignored.items():
            properties[name] = {"description": f"Does nothing here: {why}.", "deprecated": True}
        required = [k.name for k in self.keys if k.required]
        return {
            "type": "object",
            "properties": properties,
            **({"required": required} if required else {}),
            "patternProperties": {"^(//|_comment)": {}},
            "additionalProperties": False,
        }


def is_comment(name: str) -> bool:
    """Whether a key is what people write where JSON has no comments."""
    return name.startswith(("//", "_comment"))


@dataclass(frozen=True)
class Shorthand:
    """A section for which its most used key's value may stand alone."""

    section: Section
    key: str

    def read(self, value: Any, at: str, found: Findings) -> Any:
        if isinstance(value, dict):
            return self.section.read(value, at, found)
        alone = self._key().kind.read(value, at, found)
        return BAD if alone is BAD else {self.key: alone}

    def _key(self) -> Key:
        return next(k for k in self.section.keys if k.name == self.key)

    def schema(self) -> Schema:
        return {"anyOf": [self.section.schema(), self._key().kind.schema()]}
