"""Schemas of arguments: what may stand in one, what is met, and that checking ends soon."""

from __future__ import annotations

import time
from typing import Any

import jsonschema
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcpcp.constraints import (
    DEEPEST,
    LONGEST_PATTERN,
    LONGEST_SCHEMA,
    LONGEST_TEXT,
    MOST_VALUES,
    canonical,
    fault,
    unmet,
)


def nested(levels: int, inner: Any) -> Any:
    for _ in range(levels):
        inner = {"not": inner}
    return inner


def path_like(pattern: str) -> dict[str, Any]:
    return {"properties": {"path": {"pattern": pattern}}}


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object", "properties": {"a": {"type": "string", "maxLength": 5}}},
        {"required": ["a"], "additionalProperties": False, "properties": {"a": True}},
        {"anyOf": [{"required": ["a"]}, {"required": ["b"]}], "not": {"required": ["c"]}},
        {"properties": {"$ref": {"type": "string"}, "format": {"const": 1}}},
        path_like(r"^/srv/[^.]*$"),
        path_like(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"),
        path_like(r"(a+)+$"),
        {"title": "t", "description": "d", "default": {"$ref": 1}, "examples": [1]},
    ],
)
def test_good_schemas(schema: Any) -> None:
    assert fault(schema) is None
    assert unmet(canonical(schema), {"a": "x"}) is None


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        (True, "an object"),
        ([], "an object"),
        ("{}", "an object"),
        ({"$ref": "https://evil.example/schema.json"}, "write the schema out"),
        ({"properties": {"a": {"$ref": "#/$defs/a"}}}, "at properties.a: "),
        ({"$dynamicRef": "#a"}, "write the schema out"),
        ({"$defs": {}}, "write the schema out"),
        ({"$id": "https://x"}, "write the schema out"),
        ({"format": "uri"}, "would not be enforced"),
        ({"maxlength": 5}, '"maxlength" is not a keyword'),
        ({"patternProperties": {"(a+)+$": {}}}, "is not a keyword"),
        ({"unevaluatedProperties": False}, "is not a keyword"),
        ({"anyOf": [{}, {"itmes": {}}]}, "at anyOf[1]: "),
        ({"type": "strin"}, "at type: "),
        ({"maxLength": "5"}, "at maxLength: "),
        ({"properties": []}, "at properties: "),
        ({"items": [{}]}, "must be a schema"),
        (path_like("("), "at properties.path: the pattern is not supported"),
        (path_like("(?=a)b"), "look-around"),
        (path_like(r"(a)\1"), "backreferences"),
        (path_like("x" * (LONGEST_PATTERN + 1)), "up to 256 characters"),
        (path_like("([a-z]{100}){101}"), "repeats too much"),
        (path_like("[a-z]{1,50000}"), "repeats too much"),
        ({"pattern": 5}, "must be a text"),
        ({"description": "x" * LONGEST_SCHEMA}, "is longer than"),
        (nested(DEEPEST + 1, {}), "is deeper than"),
        (nested(5000, {}), ""),
        ({"const": {1}}, "must be JSON"),
    ],
)
def test_schemas_that_are_refused(schema: Any, why: str) -> None:
    assert why in (fault(schema) or pytest.fail("taken"))


@pytest.mark.parametrize(
    ("schema", "arguments", "answer"),
    [
        ({"properties": {"a": {"maxLength": 2}}}, {"a": "xyz"}, 'a must meet {"maxLength": 2}'),
        ({"properties": {"a": {"items": {"minimum": 0}}}}, {"a": [1, -1]}, "a[1] must meet "),
        ({"required": ["a"]}, {}, 'the arguments must meet {"required": ["a"]}'),
        ({"properties": {"a": False}}, {"a": 1}, "something in the arguments must not be there"),
        (path_like("^/srv/"), {"path": "/etc/passwd"}, 'path must meet {"pattern": "^/srv/"}'),
        (path_like("^x*$"), {"path": "x" * (LONGEST_TEXT + 1)}, "path must meet "),
        (path_like("."), {"path": "\ud800"}, "path must meet "),
        ({"type": "object"}, ["a"], 'the arguments must meet {"type": "object"}'),
        ({"properties": {"a": {"uniqueItems": True}}}, {"a": [1, 1.0]}, "a must meet "),
        ({"properties": {"a": {"uniqueItems": True}}}, {"a": [{"b": [1]}, {"b": [1]}]}, "a must"),
        ({"properties": {"a": {"enum": ["x" * 500]}}}, {"a": 1}, "..."),
    ],
)
def test_what_is_not_met_is_named(schema: Any, arguments: Any, answer: str) -> None:
    assert fault(schema) is None
    assert answer in (unmet(canonical(schema), arguments) or "met")


def test_an_answer_repeats_nothing_of_the_arguments_values() -> None:
    schema = canonical({"properties": {"a": {"const": 1}, "b": {"pattern": "^$"}}})
    for arguments in ({"a": "my secret"}, {"b": "my secret"}):
        assert "secret" not in (unmet(schema, arguments) or "met")


def test_true_is_not_one_and_items_that_differ_are_unique() -> None:
    schema = canonical({"properties": {"a": {"uniqueItems": True}}})
    assert unmet(schema, {"a": [1, True, "1", [1], [True], {"a": 1}, None, 0, False]}) is None


def test_a_pattern_is_found_anywhere_in_the_text_as_the_standard_says() -> None:
    assert unmet(canonical(path_like("b+")), {"path": "abc"}) is None


@pytest.mark.parametrize(
    ("schema", "arguments"),
    [
        (path_like(r"^(a+)+$"), {"path": "a" * 16_000 + "!"}),
        (path_like(r"(x+x+)+y"), {"path": "x" * 16_000}),
        (path_like(r"(.*a){20}$"), {"path": "a" * 16_000 + "!"}),
        (path_like(r"([a-z]{100}){100}!"), {"path": "a" * 16_000}),
        (path_like("^x*$"), {"path": "x" * 10_000_000}),
        ({"properties": {"a": {"uniqueItems": True}}}, {"a": [{"n": n} for n in range(4900)]}),
        ({"properties": {"a": {"items": {}}}}, {"a": [0] * 1_000_000}),
    ],
)
def test_hostile_arguments_are_checked_soon(schema: Any, arguments: Any) -> None:
    assert fault(schema) is None
    began = time.process_time()
    unmet(canonical(schema), arguments)
    assert time.process_time() - began < 100  # with a backtracking engine: hours


def test_arguments_are_bounded_in_number_and_depth() -> None:
    deep: Any = {}
    for _ in range(900):
        deep = {"a": deep}
    assert unmet("{}", deep) == f"they are nested deeper than {DEEPEST} levels"
    many = {"a": [0] * (MOST_VALUES + 1)}
    assert unmet("{}", many) == f"they hold more than {MOST_VALUES} values"


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.text("ab", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=1), inner, max_size=3)
    ),
    max_leaves=8,
)
SCHEMAS: st.SearchStrategy[Any] = st.deferred(
    lambda: st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["object", "string", "array", "integer", "boolean"]),
            "properties": st.dictionaries(st.text("ab", max_size=1), SCHEMAS, max_size=2),
            "additionalProperties": st.booleans(),
            "items": SCHEMAS,
            "uniqueItems": st.booleans(),
            "anyOf": st.lists(SCHEMAS, min_size=1, max_size=2),
            "not": SCHEMAS,
            "enum": st.lists(JSON, min_size=1, max_size=2),
            "pattern": st.sampled_from(["^a", "b$", "a+b?", "[ab]{2}", "^$"]),
            "maxLength": st.integers(0, 3),
        },
    )
)


@given(SCHEMAS, JSON)
@example({"uniqueItems": True}, [[1], [True]])
def test_what_is_met_is_what_the_standard_says(schema: Any, arguments: Any) -> None:
    if fault(schema) is None:
        plain = jsonschema.Draft202012Validator(schema)
        assert (unmet(canonical(schema), arguments) is None) == plain.is_valid(arguments)
