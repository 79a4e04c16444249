"""The pure loop: what follows in a conversation."""

from __future__ import annotations

from typing import Any

from mcpcp.chat.loop import (
    EMPTY,
    LAST_TURN,
    MOST_CALLS,
    Ask,
    Call,
    Conversation,
    Finish,
    Mistake,
    Run,
    ToolCall,
    begin,
    next_step,
)
from mcpcp.chat.toolset import Toolset

TOOLS = Toolset.of([{"name": "time_now", "inputSchema": {"type": "object"}}])
HELLO = [{"role": "user", "content": "Hello"}]


def after(calls: tuple[ToolCall, ...], text: str = "") -> Conversation:
    return begin(HELLO, "", TOOLS).answered(text, calls)


def test_a_new_conversation_asks_the_model_with_its_tools() -> None:
    step = next_step(begin(HELLO, "", TOOLS), (), TOOLS, 8)
    assert isinstance(step, Ask)
    assert step.tools == TOOLS.functions
    assert [m["role"] for m in step.messages] == ["system", "user"]


def test_without_tools_and_instructions_the_callers_messages_are_all_there_is() -> None:
    step = next_step(begin(HELLO, "", Toolset()), (), Toolset(), 8)
    assert step == Ask(tuple(HELLO), ())


def test_the_callers_own_system_message_stays_below_ours_in_one() -> None:
    own = [{"role": "system", "content": "Be brief."}, *HELLO]
    messages = begin(own, "Say please.", TOOLS).messages
    assert [m["role"] for m in messages] == ["system", "user"]
    text = messages[0]["content"]
    assert text.index("data from outside") < text.index("Say please.") < text.index("Be brief.")


def test_an_answer_without_calls_ends_it() -> None:
    step = next_step(after((), "Noon."), (), TOOLS, 8)
    assert step == Finish({"role": "assistant", "content": "Noon."})


def test_an_empty_answer_is_said_to_be_one() -> None:
    assert next_step(after(()), (), TOOLS, 8) == Finish({"role": "assistant", "content": EMPTY})


def test_calls_are_made_all_at_once_and_in_their_order() -> None:
    calls = (ToolCall("a", "time_now", "{}"), ToolCall("b", "time_now", '{"zone": "UTC"}'))
    step = next_step(after(calls), calls, TOOLS, 8)
    assert step == Run((Call("a", "time_now", {}), Call("b", "time_now", {"zone": "UTC"})))


def test_bad_arguments_are_told_to_the_model_and_not_shown_to_it_again() -> None:
    calls = (ToolCall("a", "time_now", '{"zone": '), ToolCall("b", "time_now", "[1]"))
    conversation = after(calls)
    step = next_step(conversation, calls, TOOLS, 8)
    assert isinstance(step, Run)
    first, second = step.calls
    assert isinstance(first, Mistake) and '{"zone": ' in first.text
    assert isinstance(second, Mistake) and "type list" in second.text
    written = conversation.messages[-1]["tool_calls"]
    assert [call["function"]["arguments"] for call in written] == ["{}", "{}"]


def test_an_unknown_tool_is_told_with_those_that_there_are() -> None:
    calls = (ToolCall("a", "time_then", "{}"),)
    step = next_step(after(calls), calls, TOOLS, 8)
    assert isinstance(step, Run)
    [mistake] = step.calls
    assert isinstance(mistake, Mistake)
    assert mistake.text == "There is no tool 'time_then'. Tools that there are: time_now"


def test_more_calls_than_anybody_needs_are_refused_one_by_one() -> None:
    calls = tuple(ToolCall(str(n), "time_now", "") for n in range(MOST_CALLS + 2))
    step = next_step(after(calls), calls, TOOLS, 8)
    assert isinstance(step, Run)
    assert [type(call) for call in step.calls] == [Call] * MOST_CALLS + [Mistake] * 2


def test_at_the_turn_limit_the_model_is_asked_without_tools_and_told_so() -> None:
    conversation = begin(HELLO, "", TOOLS)
    for turn in range(2):
        calls = (ToolCall(f"c{turn}", "time_now", ""),)
        conversation = conversation.answered("", calls).told(f"c{turn}", "time_now", "12:00", 100)
    step = next_step(conversation, (), TOOLS, 2)
    assert isinstance(step, Ask)
    assert step.tools == ()
    assert LAST_TURN in step.messages[0]["content"]
    assert [m["role"] for m in step.messages].count("system") == 1


def test_earlier_answers_of_the_callers_history_are_no_turns_of_this_request() -> None:
    history: list[dict[str, Any]] = [
        *HELLO,
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "And now?"},
    ]
    step = next_step(begin(history, "", TOOLS), (), TOOLS, 1)
    assert isinstance(step, Ask) and step.tools


def test_a_long_result_is_cut_in_the_middle_with_a_marker() -> None:
    told = begin(HELLO, "", TOOLS).told("a", "time_now", "a" * 300 + "z" * 300, 100)
    content = told.messages[-1]["content"]
    assert "[... 500 characters left out here ...]" in content
    assert content.count("a" * 75) == 1 and "z" * 25 in content
