"""How lines are written: for people, for machines, with the request's id, without secrets."""

from __future__ import annotations

import contextvars
import json
import logging
from typing import Any

import pytest

from mcpcp import logs, requestid

JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"


def record(message: str, **fields: Any) -> logging.LogRecord:
    made = logging.LogRecord("mcpcp.part", logging.WARNING, "", 0, message, (), None)
    made.__dict__.update(fields)
    made.created = 0.0
    return made


def test_a_line_for_people_is_one_line() -> None:
    line = logs.formatter("text").format(record("two\nlines", tool="a b", ms=1.5))
    expected = "1970-01-01T00:00:00.000+00:00 WARNING mcpcp.part: two\\nlines"
    assert line == f'{expected} tool="a b" ms=1.5'


def test_a_line_for_machines_is_one_object() -> None:
    line = logs.formatter("json").format(record("two\nlines", tool="a b"))
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:00.000+00:00",
        "level": "WARNING",
        "logger": "mcpcp.part",
        "message": "two\nlines",
        "tool": "a b",
    }


@pytest.mark.parametrize("style", ["text", "json"])
def test_the_request_s_id_is_in_the_lines_of_its_task_alone(style: logs.Style) -> None:
    def within() -> str:
        requestid.begin("abc-1")
        return logs.formatter(style).format(record("x"))

    assert "abc-1" in contextvars.copy_context().run(within)
    assert "request" not in logs.formatter(style).format(record("x"))


@pytest.mark.parametrize("style", ["text", "json"])
@pytest.mark.parametrize(
    "text", [JWT, f"Authorization: Bearer {JWT}", "bearer opaque-one", "a hidden-word here"]
)
def test_secrets_are_in_no_line(style: logs.Style, text: str) -> None:
    logs.hide("hidden-word")
    line = logs.formatter(style).format(record(f"said {text} end", field=text))
    for secret in (JWT, "opaque-one", "hidden-word"):
        assert secret not in line
    assert "said " in line
    assert " end" in line


@pytest.mark.parametrize("given", [None, "", "a b", "a\n", "x" * 65, "é", 7, ["a"]])
def test_an_id_of_another_form_is_replaced(given: object) -> None:
    context = contextvars.copy_context()
    made = context.run(requestid.begin, given)
    assert made != given
    assert context.run(requestid.current) == made
    assert context.run(requestid.begin, made) == made


def test_two_requests_have_two_ids_unless_one_goes_on() -> None:
    context = contextvars.copy_context()
    first = context.run(requestid.begin)
    assert context.run(requestid.go_on, None) == first
    assert context.run(requestid.go_on, "their-own") == "their-own"
    assert context.run(requestid.begin) != first
