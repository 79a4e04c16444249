"""The search mode: what is found, in which order, and what its two tools answer."""

from __future__ import annotations

import json
import time
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpcp.search import DEFINITIONS, MOST, USUAL, Index, answer, find, target, words


def tool(name: str, description: str = "", **arguments: str) -> dict[str, Any]:
    properties = {n: {"type": "string", "description": d} for n, d in arguments.items()}
    schema = {"type": "object", "properties": properties}
    return {"name": name, "description": description, "inputSchema": schema}


TOOLS = (
    tool("fs_read_text_file", "Read the complete contents of a file.", path="Where it is."),
    tool("fs_write_file", "Create a new file, or overwrite one.", path="Where.", content="What."),
    tool("fs_list_directory", "List files and folders in a directory.", path="Where."),
    tool("git_git_commit", "Record changes to the repository.", message="The commit message."),
    tool("git_git_diff", "Show changes between the working tree and the index."),
    tool("time_convert", "Convert a time from one zone to another.", timezone="IANA name."),
    tool("mail_sendMessage", "Send an e-mail.", recipient="Whom to.", message="What to say."),
    tool("wetter", "Größe und Stärke des Windes.", ort="Wo."),
    tool("tenki", "今日の天気を調べます。", basho="場所"),
)


def names(query: str, limit: int = USUAL) -> list[str]:
    return [t["name"] for t in find(TOOLS, query, limit)]


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("read a file", "fs_read_text_file"),
        ("create files", "fs_write_file"),
        ("what is in this directory", "fs_list_directory"),
        ("commit", "git_git_commit"),
        ("show me a diff of my changes", "git_git_diff"),
        ("convert timezones", "time_convert"),
        ("SEND MESSAGE", "mail_sendMessage"),
        ("recipient", "mail_sendMessage"),
        ("größe", "wetter"),
        ("天気", "tenki"),
        ("fs_write_file", "fs_write_file"),
    ],
)
def test_the_tool_that_is_meant_comes_first(query: str, first: str) -> None:
    assert names(query)[0] == first


def test_what_does_not_match_is_not_found() -> None:
    assert names("quantum chromodynamics") == []
    assert names("?!") == []
    assert "time_convert" not in names("read file")


def test_an_empty_query_lists_tools_in_order() -> None:
    assert names("", 3) == [t["name"] for t in TOOLS[:3]]
    assert names("  ", 100) == [t["name"] for t in TOOLS]


def test_equals_keep_the_order_of_the_list() -> None:
    twins = [tool(f"{n}_echo", "Says it.") for n in "cab"]
    assert [t["name"] for t in find(twins, "echo")] == ["c_echo", "a_echo", "b_echo"]


def test_a_name_counts_more_than_a_mention() -> None:
    rivals = [tool("other", "Unlike search, this does something else."), tool("search", "Looks.")]
    assert find(rivals, "search")[0]["name"] == "search"


def test_words_of_names_and_texts() -> None:
    assert words("readTextFile get_HTTPResponse-v2.1") == [
        "read", "text", "file", "get", "http", "response", "v", "2", "1",
    ]  # fmt: skip
    assert words("Größe 天気予報") == ["grösse", "天気", "気予", "予報"]


def test_no_tools_at_all() -> None:
    assert find((), "anything") == ()
    assert find((), "") == ()


@given(st.lists(st.text(max_size=20), max_size=8), st.text(max_size=60), st.integers(1, MOST))
def test_whatever_is_asked_of_whatever_tools(said: list[str], query: str, limit: int) -> None:
    tools = [tool(f"t{n}", text) for n, text in enumerate(said)]
    found = find(tools, query, limit)
    assert len(found) <= limit
    assert len({t["name"] for t in found}) == len(found)
    assert all(t in tools for t in found)
    assert found == find(tools, query, MOST)[:limit]


@given(st.sampled_from(TOOLS))
def test_every_tool_is_found_by_its_own_name(wanted: dict[str, Any]) -> None:
    assert find(TOOLS, wanted["name"])[0] == wanted


def test_definitions_of_any_shape_are_indexed() -> None:
    odd: list[dict[str, Any]] = [
        {"name": "a"},
        {"name": "b", "inputSchema": True, "description": None, "title": 5},
        {"name": "c", "inputSchema": {"properties": {"query": True}}},
        {"name": "d", "inputSchema": {"properties": []}},
    ]
    assert find(odd, "query") == (odd[2],)


def test_the_two_definitions_are_good_tools() -> None:
    for definition in DEFINITIONS:
        jsonschema.Draft202012Validator.check_schema(definition["inputSchema"])
        assert definition["description"]
    assert [d["name"] for d in DEFINITIONS] == ["find_tools", "call_tool"]


def test_an_answer_is_json_with_what_a_call_needs() -> None:
    result = answer(Index.of(TOOLS), {"query": "read file", "limit": 1})
    (content,) = result["content"]
    assert json.loads(content["text"]) == {"tools": [TOOLS[0]], "total": len(TOOLS)}
    assert "isError" not in result


@pytest.mark.parametrize(
    "arguments",
    [None, [], {}, {"query": 5}, {"query": "x", "limit": 0}, {"query": "x", "limit": MOST + 1},
     {"query": "x", "limit": True}, {"query": "x", "limit": "3"}],
)  # fmt: skip
def test_mistakes_are_answered_as_errors_of_the_tool(arguments: Any) -> None:
    result = answer(Index.of(TOOLS), arguments)
    assert result["isError"]
    assert "must be" in result["content"][0]["text"]


def test_the_tool_that_a_call_means() -> None:
    assert target({"name": "a_b", "arguments": {"x": 1}}) == ("a_b", {"x": 1})
    assert target({"name": "a_b"}) == ("a_b", {})
    assert target({"name": "a_b", "arguments": None}) == ("a_b", {})


@pytest.mark.parametrize(
    "arguments",
    [None, {}, {"name": 1}, {"name": "call_tool"}, {"name": "find_tools"},
     {"name": "a", "arguments": []}, {"name": "a", "arguments": "x"}],
)  # fmt: skip
def test_a_call_that_means_no_tool_is_an_error(arguments: Any) -> None:
    with pytest.raises(ValueError, match="must be"):
        target(arguments)


def test_a_long_query_over_many_tools_is_answered_soon() -> None:
    many = [tool(f"s{n}_do_{n}", f"does thing{n} " * 20) for n in range(500)]
    index = Index.of(many)
    began = time.process_time()
    index.find(" ".join(f"thing{n} other{n}" for n in range(5000)))
    assert time.process_time() - began < 2
