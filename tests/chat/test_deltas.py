"""Streamed answers put together, however a server cuts them."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mcpcp.chat.deltas import Answer, Assembly, whole
from mcpcp.chat.loop import ToolCall


def assembled(*deltas: dict[str, Any], finish: str | None = "tool_calls") -> Answer:
    assembly = Assembly()
    for delta in deltas:
        assembly.take({"choices": [{"index": 0, "delta": delta}]})
    assembly.take({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    return assembly.answer()


def piece(index: int | None, call_id: str | None, name: str | None, arguments: Any) -> Any:
    made: dict[str, Any] = {"function": {"name": name, "arguments": arguments}}
    made |= {} if index is None else {"index": index}
    made |= {} if call_id is None else {"id": call_id}
    return {"tool_calls": [made]}


A, B = ToolCall("a", "one", '{"x": 1}'), ToolCall("b", "two", "{}")


def test_pieces_by_index_as_openai_sends_them() -> None:
    answer = assembled(
        piece(0, "a", "one", ""),
        piece(1, "b", "two", ""),
        piece(0, None, None, '{"x"'),
        piece(1, None, None, "{}"),
        piece(0, None, None, ": 1}"),
    )
    assert answer.calls == (A, B)


def test_every_call_numbered_zero_but_with_its_own_id() -> None:
    answer = assembled(
        piece(0, "a", "one", '{"x": 1}'),
        piece(0, "b", "two", "{"),
        piece(0, None, None, "}"),
    )
    assert answer.calls == (A, B)


def test_every_call_numbered_zero_and_no_ids_at_all() -> None:
    answer = assembled(piece(0, "", "one", '{"x": 1}'), piece(0, "", "two", "{}"))
    assert [(c.name, c.arguments) for c in answer.calls] == [("one", '{"x": 1}'), ("two", "{}")]
    assert len({c.id for c in answer.calls}) == 2


def test_id_and_name_repeated_in_each_piece() -> None:
    answer = assembled(piece(0, "a", "one", '{"x"'), piece(0, "a", "one", ": 1}"))
    assert answer.calls == (A,)


def test_a_name_that_comes_in_two() -> None:
    answer = assembled(piece(0, "a", "o", ""), piece(0, None, "ne", '{"x": 1}'))
    assert answer.calls == (A,)


def test_no_index_anywhere() -> None:
    answer = assembled(piece(None, "a", "one", '{"x"'), piece(None, None, None, ": 1}"))
    assert answer.calls == (A,)


def test_arguments_that_are_an_object() -> None:
    answer = assembled(piece(0, "a", "one", {"x": 1}))
    assert answer.calls == (A,)


def test_one_id_for_two_calls_of_a_whole_answer_becomes_two() -> None:
    call = {"id": "a", "function": {"name": "one", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call, call]}
    answer = whole({"choices": [{"message": message, "finish_reason": "tool_calls"}]})
    assert len({c.id for c in answer.calls}) == 2


def test_calls_that_were_dropped_are_noticed() -> None:
    assert assembled({"content": "I will look."}).dropped
    assert assembled(finish="stop").dropped
    assert not assembled({"content": "Noon."}, finish="stop").dropped
    assert not assembled(piece(0, "a", "one", "")).dropped
    assert not assembled(finish="length").dropped


def test_a_refusal_is_text() -> None:
    assert assembled({"refusal": "I can't help with that."}, finish="stop").text.startswith("I can")


def test_content_in_parts_is_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert assembled({"content": parts}, finish="stop").text == "ab"


ODD: st.SearchStrategy[Any] = st.sampled_from([None, True, 0, "", "x", [], [1], {}, {"x": []}])
FUNCTION = ODD | st.fixed_dictionaries({}, optional={"name": ODD, "arguments": ODD})
PIECE = ODD | st.fixed_dictionaries({}, optional={"index": ODD, "id": ODD, "function": FUNCTION})
SAID = {"content": ODD, "refusal": ODD, "tool_calls": ODD | st.lists(PIECE, max_size=3)}
DELTA = ODD | st.fixed_dictionaries({}, optional=SAID)
CHOICE = {"delta": DELTA, "message": DELTA, "finish_reason": ODD}
CHOICES = ODD | st.lists(ODD | st.fixed_dictionaries({}, optional=CHOICE), max_size=2)
USAGE = ODD | st.fixed_dictionaries({}, optional={"prompt_tokens": ODD, "total_tokens": ODD})
CHUNK = st.fixed_dictionaries({}, optional={"choices": CHOICES, "usage": USAGE})


@given(st.lists(CHUNK, max_size=4))
def test_whatever_a_server_sends_is_taken_without_harm(chunks: list[dict[str, Any]]) -> None:
    assembly = Assembly()
    for chunk in chunks:
        assert isinstance(assembly.take(chunk), str)
        whole(chunk)
    json.dumps([call.arguments for call in assembly.answer().calls])


@given(st.text(min_size=1), st.lists(st.integers(1, 5), min_size=1, max_size=20))
def test_text_is_the_same_however_it_is_cut(text: str, sizes: list[int]) -> None:
    assembly, rest = Assembly(), text
    for size in sizes:
        assembly.take({"choices": [{"delta": {"content": rest[:size]}}]})
        rest = rest[size:]
    assembly.take({"choices": [{"delta": {"content": rest}, "finish_reason": "stop"}]})
    assert assembly.answer().text == text
