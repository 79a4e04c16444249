"""`Mcp-Param-*`: what a schema declares, what is sent, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpcp.paramheaders import declared, decode_header, encode_header, made, mismatch


def schema(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def mirrored(token: Any, kind: Any = "string") -> dict[str, Any]:
    return {"type": kind, "x-mcp-header": token}


REGION = declared(schema(region=mirrored("Region"), query={"type": "string"}))


def test_a_schema_declares_headers_at_any_depth() -> None:
    inner = schema(id=mirrored("Tenant-Id", "integer"))
    found = declared(schema(region=mirrored("Region"), tenant=inner))
    assert found == {("region",): "Region", ("tenant", "id"): "Tenant-Id"}


@pytest.mark.parametrize(
    "bad",
    [
        schema(a=mirrored("")),
        schema(a=mirrored("two words")),
        schema(a=mirrored("line\r\nbreak")),
        schema(a=mirrored("Ünicode")),
        schema(a=mirrored(["list"])),
        schema(a=mirrored("A", "number")),
        schema(a=mirrored("A", "object")),
        schema(a=mirrored("A", ["string", "null"])),
        schema(a=mirrored("Same"), b=mirrored("same")),
    ],
)
def test_a_declaration_that_is_not_as_it_should_be_voids_them_all(bad: Any) -> None:
    bad["properties"]["good"] = mirrored("Good")
    assert declared(bad) == {}


@pytest.mark.parametrize("other", [None, [], "x", {}, {"properties": []}, schema(a=1, b=None)])
def test_what_is_no_schema_declares_nothing(other: Any) -> None:
    assert declared(other) == {}


def test_a_schema_without_a_bottom_comes_to_an_end() -> None:
    endless: dict[str, Any] = schema(x=mirrored("X"))
    endless["properties"]["self"] = endless
    assert len(declared(endless)) <= 1


@pytest.mark.parametrize(
    ("value", "text"),
    [("eu", "eu"), (True, "true"), (False, "false"), (42, "42"), ("", "")],
)
def test_arguments_are_sent_as_text(value: Any, text: str) -> None:
    assert made(REGION, {"region": value, "query": "q"}) == {"mcp-param-region": text}


@pytest.mark.parametrize("arguments", [None, {}, [], {"region": None}, {"region": {"a": 1}}])
def test_what_is_absent_or_no_value_is_not_sent(arguments: Any) -> None:
    assert made(REGION, arguments) == {}
    assert mismatch(REGION, arguments, lambda _: None) is None


@pytest.mark.parametrize(
    ("headers", "arguments", "why"),
    [
        ({}, {"region": "eu"}, "missing"),
        ({"mcp-param-region": "us"}, {"region": "eu"}, "does not match"),
        ({"mcp-param-region": "eu"}, {}, "does not match"),
        ({"mcp-param-region": "EU"}, {"region": "eu"}, "does not match"),
        ({"mcp-param-region": "=?base64?!!?="}, {"region": "eu"}, "does not match"),
        ({"mcp-param-region": "42.5"}, {"region": 42}, "does not match"),
        ({"mcp-param-region": "1"}, {"region": True}, "does not match"),
    ],
)
def test_headers_that_mislead_are_named(headers: dict[str, str], arguments: Any, why: str) -> None:
    wrong = mismatch(REGION, arguments, headers.get)
    assert wrong is not None
    assert why in wrong
    assert "Mcp-Param-Region" in wrong


@pytest.mark.parametrize(("sent", "value"), [("42.0", 42), ("42", 42.0), ("-1.00", -1)])
def test_the_same_number_may_be_written_in_two_ways(sent: str, value: Any) -> None:
    assert mismatch(REGION, {"region": value}, {"mcp-param-region": sent}.get) is None


@given(st.text(st.characters(codec="utf-8")))
def test_every_text_survives_its_header_and_is_safe_there(text: str) -> None:
    sent = encode_header(text)
    assert sent.isascii()
    assert sent.isprintable()
    assert sent == sent.strip()
    assert decode_header(sent) == text
    assert mismatch(REGION, {"region": text}, made(REGION, {"region": text}).get) is None


@given(st.text(st.characters(codec="utf-8")))
def test_no_header_breaks_the_reader(sent: str) -> None:
    for header in (sent, f"=?base64?{sent}?="):
        decode_header(header)
        mismatch(REGION, {"region": "eu"}, {"mcp-param-region": header}.get)


@pytest.mark.parametrize("payload", ["YQ", "YR==", "YQ==\n", " YQ==", "gA==", "*"])
def test_base64_that_is_not_exact_is_no_value(payload: str) -> None:
    """Two readers must not see two values in one header."""
    assert decode_header(f"=?base64?{payload}?=") is None
