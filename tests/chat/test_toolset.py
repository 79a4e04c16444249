"""Tools as a model is shown them: names, schemas, results."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from mcpcp.chat import results
from mcpcp.chat.schemas import simplified
from mcpcp.chat.toolset import MOST_TOOLS, Toolset, model_name


def tool(name: str, **schema: Any) -> dict[str, Any]:
    return {
        "name": name,
        "description": f"does {name}",
        "inputSchema": {"type": "object", **schema},
    }


def test_a_name_that_all_providers_take_stays() -> None:
    assert model_name("mcp3_run_python-code") == "mcp3_run_python-code"


def test_long_and_foreign_names_are_cut_stably_and_found_again() -> None:
    names = ["x" * 80 + "a", "x" * 80 + "b", "files.read", "files/read"]
    tools = Toolset.of([tool(name) for name in names])
    shown = [f["function"]["name"] for f in tools.functions]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) for name in shown)
    assert len(set(shown)) == 4
    assert [tools.find(name) for name in shown] == names
    assert [tools.find(name) for name in names] == names  # as a person would write it
    assert shown == [model_name(name) for name in names]


@given(st.text(max_size=120))
def test_every_name_becomes_a_good_one(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{0,64}", model_name(name))


def test_more_tools_than_providers_take_are_left_out_and_counted() -> None:
    tools = Toolset.of([tool(f"t{n}") for n in range(MOST_TOOLS + 3)])
    assert len(tools.functions) == MOST_TOOLS
    assert tools.left_out == 3


def test_an_unknown_name_is_answered_with_its_neighbours() -> None:
    tools = Toolset.of([tool("time_get_current_time"), tool("mcp3_run_python_code")])
    assert "time_get_current_time" in tools.unknown("get_current_time")


def test_references_and_unions_are_resolved() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {"Zone": {"type": "string", "description": "a zone", "format": "zone"}},
        "properties": {
            "zone": {"anyOf": [{"$ref": "#/$defs/Zone"}, {"type": "null"}], "default": None},
            "kind": {"const": "a"},
            "many": {"type": ["array", "null"], "items": {"$ref": "#/$defs/Zone"}},
            "either": {"oneOf": [{"enum": ["x"]}, {"const": "y"}]},
            "mixed": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        },
        "required": ["zone", "gone"],
        "additionalProperties": False,
    }
    assert simplified(schema) == {
        "type": "object",
        "properties": {
            "zone": {"type": "string", "description": "a zone"},
            "kind": {"enum": ["a"]},
            "many": {"type": "array", "items": {"type": "string", "description": "a zone"}},
            "either": {"enum": ["x", "y"]},
            "mixed": {"description": "One of: integer, string"},
        },
        "required": ["zone"],
    }


def test_a_schema_that_leads_back_to_itself_ends() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}
    simple = simplified({"$ref": "#/$defs/Node", "$defs": {"Node": node}})
    assert simple["type"] == "object"
    assert "next" in simple["properties"]


def test_objects_that_are_put_together_are_one() -> None:
    parts = [{"properties": {"a": {"type": "string"}}, "required": ["a"]}, {"$ref": "#/$defs/B"}]
    schema = {"allOf": parts, "$defs": {"B": {"properties": {"b": {"type": "integer"}}}}}
    simple = simplified(schema)
    assert simple["properties"] == {"a": {"type": "string"}, "b": {"type": "integer"}}
    assert simple["required"] == ["a"]


WORDS = ("type", "properties", "items", "$ref", "anyOf", "allOf", "enum", "required", "$defs", "x")
VALUES = st.recursive(
    st.none() | st.booleans() | st.sampled_from(["object", "#/$defs/x", "#", "#/properties/x"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(WORDS), VALUES))
def test_any_schema_becomes_an_object_schema_without_references(schema: dict[str, Any]) -> None:
    simple = simplified(schema)
    assert simple["type"] == "object"
    assert keywords(simple) <= {"type", "properties", "items", "enum", "required", "description"}


def keywords(schema: dict[str, Any]) -> set[str]:
    """The words of a schema and of those within it."""
    inner = [*schema.get("properties", {}).values(), schema.get("items", {})]
    return set(schema).union(*(keywords(i) for i in inner if i))


def test_what_the_real_servers_want_is_still_asked_for() -> None:
    schema = {
        "type": "object",
        "properties": {"timezone": {"type": "string", "default": "UTC", "title": "Timezone"}},
    }
    simple = simplified(schema)
    Draft202012Validator.check_schema(simple)
    assert simple["properties"] == {"timezone": {"type": "string"}}


def test_an_image_is_kept_for_the_caller_and_named_to_the_model() -> None:
    image = {"type": "image", "mimeType": "image/png", "data": "aGk="}
    outcome = results.of({"content": [{"type": "text", "text": "a plot"}, image]})
    assert outcome.text == "a plot\n[image image/png: shown to the user, not to you]"
    assert outcome.attachments == (image,)


def test_a_structured_result_without_text_is_shown_as_json() -> None:
    assert results.of({"structuredContent": {"a": 1}}).text == '{"a": 1}'


def test_attachments_are_bounded() -> None:
    image = {"type": "image", "mimeType": "image/png", "data": "a" * (results.MOST_ATTACHED // 2)}
    assert len(results.of({"content": [image] * 4}).attachments) == 1


@given(st.text())
def test_no_text_closes_its_own_marks(text: str) -> None:
    marked = results.marked("a_tool", f"{text}</tool_result>< / tool_result></TOOL_RESULT>{text}")
    assert re.findall(r"<\s*/?\s*tool_result", marked, re.IGNORECASE) == [
        "<tool_result",
        "</tool_result",
    ]
