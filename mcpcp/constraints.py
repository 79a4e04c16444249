"""JSON Schemas that a call's arguments must meet: what may stand in one, and whether it is met.

A schema is the operator's, the arguments are an agent's: so whatever these are, checking them ends
soon. Every keyword must be one that is enforced, so that a typing mistake can't mean "allowed".
There is no `$ref`, so nothing is fetched and nothing recurses; patterns are matched by an engine
that is linear in the text; sizes are bounded on both sides.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonschema import ValidationError
    from jsonschema.protocols import Validator
    from pydantic_core import SchemaValidator

LONGEST_SCHEMA = 4096
"""Bytes of a schema's canonical text at most."""

DEEPEST = 32
"""Levels at most of a schema, and of the arguments that are checked against one."""

MOST_VALUES = 10_000
"""Values at most in arguments that are checked."""

LONGEST_PATTERN = 256
LONGEST_TEXT = 16_384
"""Characters at most of a pattern, and of a text that is matched with one."""

MOST_REPEATED = 10_000
"""The product of a pattern's counts, `{8}` or `{1,8}`: it bounds the size of the compiled one."""

_COMPILED = 512

_ONE = frozenset({"additionalProperties", "contains", "items", "propertyNames"})
_ONE_LOGICAL = frozenset({"not", "if", "then", "else"})
_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_MAPS = frozenset({"properties", "dependentSchemas"})
_PLAIN = frozenset(
    {
        *("type", "enum", "const", "required", "dependentRequired", "pattern"),
        *("minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
        *("multipleOf", "minItems", "maxItems", "uniqueItems", "minContains", "maxContains"),
        *("minProperties", "maxProperties"),
    }
)
_TEXTS = frozenset({"title", "description", "$comment", "default", "examples"})
_KEYWORDS = _ONE | _ONE_LOGICAL | _LISTS | _MAPS | _PLAIN | _TEXTS


def canonical(schema: Any) -> str:
    """The one text of a schema that has been found good."""
    return json.dumps(schema, sort_keys=True, separators=(",", ":"))


def fault(schema: object) -> str | None:
    """What is wrong with `schema` as a constraint, None where it is good."""
    if not isinstance(schema, dict):
        return "must be a JSON Schema, an object"
    try:
        text = canonical(schema)
    except (TypeError, ValueError, RecursionError):
        return "must be JSON"
    if len(text.encode("utf-8", "surrogatepass")) > LONGEST_SCHEMA:
        return f"is longer than {LONGEST_SCHEMA} bytes"
    return next(_faults(schema, "", 0), None) or _meta_fault(schema)


def unmet(text: str, arguments: Any) -> str | None:
    """Which rule of the schema with this canonical text `arguments` break, None where they don't.

    The answer names place and keyword, and repeats nothing of the arguments' own text.
    """
    too_much = _excess(arguments)
    if too_much:
        return too_much
    error = next(_compiled(text).iter_errors(arguments), None)
    return None if error is None else _in_words(error)


def _faults(schema: Any, at: str, depth: int) -> Iterator[str]:
    """Every mistake that the meta-schema would let pass or could not survive."""
    if isinstance(schema, bool):
        return
    where = f"at {at}: " if at else ""
    if not isinstance(schema, dict):
        yield f"{where}must be a schema: an object, true or false"
        return
    if depth > DEEPEST:
        yield f"is deeper than {DEEPEST} levels"
        return
    for keyword, value in schema.items():
        problem = _keyword_fault(keyword, value)
        if problem:
            yield f"{where}{problem}"
        for name, part in _parts(keyword, value):
            yield from _faults(part, f"{at}.{name}" if at else name, depth + 1)


def _parts(keyword: str, value: Any) -> list[tuple[str, Any]]:
    """The schemas inside a keyword's value, each with its way there."""
    if keyword in _ONE or keyword in _ONE_LOGICAL:
        return [(keyword, value)]
    if keyword in _LISTS and isinstance(value, list):
        return [(f"{keyword}[{i}]", part) for i, part in enumerate(value)]
    if keyword in _MAPS and isinstance(value, dict):
        return [(f"{keyword}.{name}", part) for name, part in value.items()]
    return []


def _keyword_fault(keyword: str, value: object) -> str | None:
    if keyword not in _KEYWORDS:
        return _stranger(keyword)
    return _pattern_fault(value) if keyword == "pattern" else None


def _stranger(keyword: str) -> str:
    shown = json.dumps(keyword[:40])
    if "ref" in keyword.lower() or keyword in ("$defs", "definitions", "$id", "$anchor"):
        return f"{shown} is not taken here: write the schema out in place"
    if keyword == "format":
        return f"{shown} would not be enforced: write a pattern"
    return f"{shown} is not a keyword that is enforced here"


def _pattern_fault(pattern: object) -> str | None:
    if not isinstance(pattern, str) or len(pattern) > LONGEST_PATTERN:
        return f"a pattern must be a text of up to {LONGEST_PATTERN} characters"
    size = 1
    for low, high in re.findall(r"\{([0-9]+)(?:,([0-9]*))?\}", pattern, re.ASCII):
        size *= max(1, int(high or low))
    if size > MOST_REPEATED:
        return f"the pattern repeats too much: its counts multiplied are over {MOST_REPEATED}"
    try:
        _linear(pattern)
    except ValueError as error:
        return f"the pattern is not supported: {' '.join(str(error).split())[-160:]}"
    return None


def _meta_fault(schema: Any) -> str | None:
    from jsonschema import Draft202012Validator, FormatChecker, SchemaError

    try:
        # `_faults` has checked the patterns, with the engine that will run them.
        Draft202012Validator.check_schema(schema, format_checker=FormatChecker(formats=()))
    except SchemaError as error:
        place = ".".join(str(step) for step in error.absolute_path) or "the top"
        return f"at {place}: {error.message[:160]}"
    return None


def _excess(arguments: object) -> str | None:
    """Why `arguments` are too much to be checked, if they are."""
    level, count = [arguments], 1
    for _ in range(DEEPEST):
        level = [part for value in level for part in _children(value)]
        count += len(level)
        if count > MOST_VALUES:
            return f"they hold more than {MOST_VALUES} values"
        if not level:
            return None
    return f"they are nested deeper than {DEEPEST} levels"


def _children(value: object) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _in_words(error: ValidationError) -> str:
    way = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in error.absolute_path)
    place = (way.lstrip(".") or "the arguments")[:120]
    if error.validator is None:  # the schema `false`
        return f"something in {place} must not be there"
    rule = json.dumps({str(error.validator): error.validator_value}, ensure_ascii=False)
    return f"{place} must meet {rule if len(rule) <= 300 else rule[:300] + '...'}"


@lru_cache(maxsize=_COMPILED)
def _compiled(text: str) -> Validator:
    return _validator_class()(json.loads(text))


@lru_cache(maxsize=1)
def _validator_class() -> Callable[[Any], Validator]:
    """Draft 2020-12 without its slow paths; imported late: most gateways never need it."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend
    from referencing import Registry

    own = {"pattern": _check_pattern, "uniqueItems": _check_unique}
    made = extend(Draft202012Validator, own)  # type: ignore[no-untyped-call]
    # An empty registry fetches nothing, whatever a schema names.
    return lambda schema: made(schema, registry=Registry())


def _check_pattern(
    validator: Any, pattern: str, instance: object, schema: Any
) -> Iterator[ValidationError]:
    from jsonschema import ValidationError

    if isinstance(instance, str):
        fits = len(instance) <= LONGEST_TEXT and _linear(pattern).isinstance_python(instance)
        if not fits:
            yield ValidationError("does not match")


@lru_cache(maxsize=_COMPILED)
def _linear(pattern: str) -> SchemaValidator:
    """`pattern` in the engine of pydantic, which has no backtracking; ValueError where it can't."""
    from pydantic_core import SchemaError, SchemaValidator, core_schema

    try:
        return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))
    except SchemaError as error:
        raise ValueError(str(error)) from None


def _check_unique(
    validator: Any, wanted: bool, instance: object, schema: Any
) -> Iterator[ValidationError]:
    from jsonschema import ValidationError

    items = instance if wanted and isinstance(instance, list) else []
    if len({_frozen(item) for item in items}) < len(items):
        yield ValidationError("has repeated items")


def _frozen(value: Any) -> Any:
    """A hashable value, equal for what JSON Schema holds equal: 1 is 1.0, and true is not 1."""
    if isinstance(value, dict):
        return ("object", frozenset((k, _frozen(v)) for k, v in value.items()))
    if isinstance(value, list):
        return ("array", tuple(_frozen(v) for v in value))
    return (isinstance(value, bool), value)
