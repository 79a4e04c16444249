"""Edits that leave the rest of a JSON text as it was."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpcp.cli.jsontext import with_members, without_comments

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(), VALUES, max_size=4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", '{\n  "s": {\n    "n": {\n      "a": 1\n    }\n  }\n}\n'),
        ("{}", '{\n  "s": {\n    "n": {\n      "a": 1\n    }\n  }\n}'),
        (
            '{\n    "s": {\n        "x": {"b": 2}\n    },\n    "z": 1\n}\n',
            '{\n    "s": {\n        "x": {"b": 2},\n        "n": {\n          "a": 1\n        }\n'
            '    },\n    "z": 1\n}\n',
        ),
        ('{\n\t"s": {}\n}', '{\n\t"s": {\n\t\t"n": {\n\t\t  "a": 1\n\t\t}\n\t}\n}'),
        ('{"s": {"n": 5, "m": 6}}', '{"s": {"n": {\n    "a": 1\n  }, "m": 6}}'),
    ],
)
def test_members_are_added_in_the_texts_own_style(text: str, expected: str) -> None:
    changed = with_members(text, "s", {"n": {"a": 1}})
    assert changed == expected
    json.loads(changed)


@given(before=OBJECTS, present=OBJECTS, added=OBJECTS, indent=st.sampled_from([None, 1, 2, "\t"]))
def test_members_are_set_and_nothing_else_changes(
    before: dict[str, Any], present: dict[str, Any], added: dict[str, Any], indent: Any
) -> None:
    value = {**before, "s": present}
    text = json.dumps(value, indent=indent)
    assert json.loads(with_members(text, "s", added)) == {**value, "s": {**present, **added}}


@given(value=VALUES, indent=st.sampled_from([None, 2]))
def test_json_without_comments_stays_as_it_is(value: Any, indent: Any) -> None:
    text = json.dumps(value, indent=indent)
    assert without_comments(text) == text


def test_comments_and_trailing_commas_go_and_lines_stay() -> None:
    text = '{ // one\n "a": "x // y /* z", /* two\n */ "b": [1, 2, ], // three\n}'
    plain = without_comments(text)
    assert json.loads(plain) == {"a": "x // y /* z", "b": [1, 2]}
    assert plain.count("\n") == text.count("\n")
