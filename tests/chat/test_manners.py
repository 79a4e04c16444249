"""A model with bad manners, and with none: what a caller gets then, over real HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import httpx
import pytest

from tests.chat.harness import (
    PATIENCE,
    Chat,
    ask,
    events_of,
    messages,
    open_chat,
    stream,
    until_seen,
)
from tests.chat.scripted import Exchange, ScriptedLlm, call, quote, refuse, say, scripted_llm
from tests.gateway.harness import Gateway

OpenChat = Callable[..., AbstractContextManager[httpx.Client]]


@pytest.fixture
def own_chat(gateway: Gateway, llm: ScriptedLlm) -> OpenChat:
    """Opens a chat service with settings of its own; gives a client of it."""

    @contextmanager
    def opened(settings: dict[str, Any], **variables: str) -> Iterator[httpx.Client]:
        whole = json.loads(gateway.config.read_text())
        whole["chat"] |= settings
        config = gateway.folder / f"own-{time.monotonic_ns()}.json"
        config.write_text(json.dumps(whole))
        named = {"LLM_BASE_URL": llm.url, "LLM_MODEL_NAME": "scripted", **variables}
        with (
            open_chat(config, gateway.environ, **named) as chat,
            chat.client(gateway.token()) as client,
        ):
            yield client

    return opened


def error_of(answer: httpx.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    assert error["code"] == answer.status_code
    return answer.status_code, error["type"], error["message"]


def fail(client: httpx.Client) -> tuple[int, str, str]:
    return error_of(client.post("/chat", json={"messages": messages("Go on")}))


def test_malformed_arguments_go_back_to_the_model_which_does_better(
    client: httpx.Client, llm: ScriptedLlm
) -> None:
    llm.play(
        call(("raw_echo", '{"message": "hi')), call(("raw_echo", {"message": "hi"})), say("Done.")
    )
    answer = ask(client)
    first, second = answer["tool_calls"]
    assert "not one JSON object" in first["error"] and first["result"] is None
    assert second["result"] == "hi"
    assert "not one JSON object" in llm.requests[1]["messages"][-1]["content"]


def test_a_tools_own_error_goes_to_the_model_and_into_the_answer(
    client: httpx.Client, llm: ScriptedLlm
) -> None:
    llm.play(call(("raw_fail", {})), quote())
    answer = ask(client)
    assert answer["tool_calls"][0]["error"] == "it went wrong"
    assert "Error: it went wrong" in answer["message"]["content"]


def test_too_many_requests_are_waited_out_before_the_first_token(
    client: httpx.Client, llm: ScriptedLlm
) -> None:
    llm.play(refuse(429, {"error": {"message": "slow down"}}, Retry_After="0"), say("Now."))
    assert ask(client)["message"]["content"] == "Now."
    assert len(llm.requests) == 2


def test_a_limit_that_stays_is_said_to_be_one(client: httpx.Client, llm: ScriptedLlm) -> None:
    llm.play(refuse(429, {"error": {"message": "slow down"}}, Retry_After="0"))
    status, kind, message = fail(client)
    assert (status, kind) == (429, "model_rate_limited")
    assert "slow down" in message
    assert len(llm.requests) == 3


def test_a_server_error_is_tried_again(client: httpx.Client, llm: ScriptedLlm) -> None:
    llm.play(refuse(503, "loading"), say("Now."))
    assert ask(client)["message"]["content"] == "Now."


def test_what_breaks_off_before_the_first_token_is_asked_again(
    client: httpx.Client, llm: ScriptedLlm
) -> None:
    def silent(exchange: Exchange) -> None:
        exchange.begin()
        exchange.hang_up()

    llm.play(silent, say("Now."))
    assert ask(client)["message"]["content"] == "Now."


def test_what_breaks_off_in_its_middle_is_an_error_and_never_asked_twice(
    client: httpx.Client, llm: ScriptedLlm
) -> None:
    def half(exchange: Exchange) -> None:
        exchange.begin()
        exchange.delta({"content": "The answer is"})
        exchange.hang_up()

    llm.play(half, say("not asked"))
    events = stream(client)
    assert [name for name, _ in events] == ["token", "error"]
    assert events[1][1]["error"]["type"] == "model_broken"
    assert "failed" in events[1][1]["error"]["message"]
    assert len(llm.requests) == 1


def test_a_stream_that_ends_in_order_but_too_soon_is_an_error_too(
    client: httpx.Client, llm: ScriptedLlm
) -> None:
    def early(exchange: Exchange) -> None:
        exchange.begin()
        exchange.delta({"content": "The answer is"})
        exchange.write(b"")

    llm.play(early)
    status, kind, message = fail(client)
    assert (status, kind) == (502, "model_broken")
    assert "in the middle" in message


def test_an_error_within_the_stream_is_shown_without_our_key(
    client: httpx.Client, llm: ScriptedLlm
) -> None:
    def broken(exchange: Exchange) -> None:
        exchange.begin()
        exchange.data(json.dumps({"error": {"message": "out of memory for sk-secret"}}))
        exchange.write(b"")

    llm.play(broken)
    status, kind, message = fail(client)
    assert (status, kind) == (502, "model_broken")
    assert message.endswith("out of memory for ***")


def test_no_json_in_the_stream_is_an_error(client: httpx.Client, llm: ScriptedLlm) -> None:
    def garbage(exchange: Exchange) -> None:
        exchange.begin()
        exchange.data("<html>")
        exchange.write(b"")

    llm.play(garbage)
    assert fail(client)[:2] == (502, "model_broken")


def test_streaming_that_drops_tool_calls_falls_back_to_asking_for_all_at_once(
    client: httpx.Client, llm: ScriptedLlm
) -> None:
    def drops(exchange: Exchange) -> None:
        exchange.begin()
        exchange.end("tool_calls")

    def at_once(exchange: Exchange) -> None:
        assert not exchange.streams
        function = {"name": "raw_echo", "arguments": '{"message": "hi"}'}
        message = {"role": "assistant", "content": None, "tool_calls": [{"function": function}]}
        exchange.json({"choices": [{"message": message, "finish_reason": "tool_calls"}]})

    llm.play(drops, at_once, say("It said hi."))
    answer = ask(client)
    assert answer["tool_calls"][0]["result"] == "hi"
    assert answer["message"]["content"] == "It said hi."


def test_a_model_that_does_not_stream_is_understood(client: httpx.Client, llm: ScriptedLlm) -> None:
    def whole(exchange: Exchange) -> None:
        message = {"role": "assistant", "content": "All at once."}
        exchange.json({"choices": [{"message": message, "finish_reason": "stop"}]})

    llm.play(whole)
    assert [name for name, _ in stream(client)] == ["token", "done"]


def test_an_endpoint_that_can_not_count_tokens_is_asked_without(
    own_chat: OpenChat, llm: ScriptedLlm
) -> None:
    unknown = {"error": {"message": "unknown field stream_options"}}
    llm.play(refuse(400, unknown), say("Yes."))
    with own_chat({}) as client:
        assert ask(client)["message"]["content"] == "Yes."
        assert ask(client)["message"]["content"] == "Yes."
    assert ["stream_options" in body for body in llm.requests] == [True, False, False]


def test_a_refusal_is_the_answer(client: httpx.Client, llm: ScriptedLlm) -> None:
    def refusing(exchange: Exchange) -> None:
        exchange.begin()
        exchange.delta({"refusal": "I can't help with that."})
        exchange.end("content_filter")

    llm.play(refusing)
    answer = ask(client)
    assert answer["message"]["content"] == "I can't help with that."
    assert answer["finish_reason"] == "content_filter"


def test_endless_tool_calls_end_with_an_answer_without_tools(
    client: httpx.Client, llm: ScriptedLlm
) -> None:
    again = call(("raw_echo", {"message": "again"}))

    def last(exchange: Exchange) -> None:
        (again if "tools" in exchange.body else say("That is all."))(exchange)

    llm.play(last)
    answer = ask(client, max_turns=3)
    assert answer["message"]["content"] == "That is all."
    assert len(answer["tool_calls"]) == 3
    assert "No more tools" in llm.requests[-1]["messages"][0]["content"]


def test_a_model_that_wants_tools_even_then_is_not_given_any(
    client: httpx.Client, llm: ScriptedLlm
) -> None:
    llm.play(call(("raw_echo", {"message": "again"})))
    answer = ask(client, max_turns=2)
    assert len(answer["tool_calls"]) == 2
    assert "gave no answer" in answer["message"]["content"]


def test_a_key_that_is_not_accepted_is_said_without_showing_it(
    client: httpx.Client, llm: ScriptedLlm
) -> None:
    llm.play(refuse(401, {"error": {"message": "bad key sk-secret"}}))
    status, kind, message = fail(client)
    assert (status, kind) == (502, "model_refused")
    assert "set LLM_API_KEY" in message and "sk-secret" not in message


def test_a_model_that_is_not_there_is_said_with_what_to_do(
    client: httpx.Client, llm: ScriptedLlm
) -> None:
    llm.play(refuse(404, {"error": {"message": "model 'scripted' not found"}}))
    _, kind, message = fail(client)
    assert kind == "model_refused"
    assert "'scripted' not found" in message and "LLM_MODEL_NAME" in message


def test_no_model_at_all_says_where_it_looked_and_how_to_start_one(
    own_chat: OpenChat, gateway: Gateway, free_port: Callable[[], int]
) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    with own_chat({}, LLM_BASE_URL=url) as client:
        status, kind, message = fail(client)
        assert (status, kind) == (503, "model_unreachable")
        assert url in message and "LLM_BASE_URL" in message
        # Everything else works.
        assert len(client.get("/tools").json()["tools"]) > 10
        body = {"name": "raw_echo", "arguments": {"message": "hi"}}
        assert client.post("/execute", json=body).json()["result"] == "hi"
        assert client.get("/health").json()["status"] == "ok"
        assert client.get("/v1/models").json()["data"][0]["id"] == "scripted"
        ready = until_seen(client, gateway="ready", llm="unreachable")
        assert ready.status_code == 503


# A machine can be so slow that a deadline is over before what it is meant for has begun: then the
# answer is the same, and the caller asks again. Such a model is the test's own, since what it was
# asked may reach it when nobody waits for it any more.


def test_a_model_that_falls_silent_is_given_up(own_chat: OpenChat) -> None:
    events: list[tuple[str, Any]] = []
    with scripted_llm() as llm, own_chat({"stall": "2s"}, LLM_BASE_URL=llm.url) as client:
        llm.play(llm.stall("The answer"))
        while not events:
            events = until_given_up(client)
        assert llm.left.wait(PATIENCE)
    assert events[0] == ("token", {"text": "The answer"})
    assert events[-1][0] == "error"
    assert events[-1][1]["error"]["type"] == "model_stalled"


def until_given_up(client: httpx.Client) -> list[tuple[str, Any]]:
    """The events of an answer; none where the model was given up before its first word."""
    body = {"messages": messages("Go on"), "stream": True}
    with client.stream("POST", "/chat", json=body) as answer:
        if answer.status_code == 200:
            return list(events_of(answer))
        answer.read()
        assert error_of(answer)[:2] == (504, "model_stalled")
        return []


def test_a_request_has_a_deadline_in_all(own_chat: OpenChat) -> None:
    with scripted_llm() as llm, own_chat({"timeout": "2s"}, LLM_BASE_URL=llm.url) as client:
        llm.play(llm.stall())
        while not llm.reached.is_set():
            status, kind, message = fail(client)
            assert (status, kind) == (504, "timeout")
            assert "chat.timeout" in message
        assert llm.left.wait(PATIENCE)


def test_a_tool_call_has_one_too_and_is_cancelled(
    own_chat: OpenChat, gateway: Gateway, llm: ScriptedLlm
) -> None:
    file = gateway.folder / "too-long"

    def noted(word: str) -> int:
        return file.read_text().split().count(word) if file.exists() else 0

    with own_chat({"call_timeout": "2s"}) as client:
        while not noted("begun"):
            llm.play(call(("raw_wait", {"file": str(file)})), quote())
            answer = ask(client)
            assert "no answer within 2 s" in answer["tool_calls"][0]["error"]
    gateway.wait(lambda: noted("cancelled") == noted("begun"), "it is cancelled")


def test_a_long_result_is_cut_for_the_model_and_whole_for_the_caller(
    own_chat: OpenChat, llm: ScriptedLlm
) -> None:
    llm.play(call(("raw_big", {"size": 5000})), quote())
    with own_chat({"result_size": 1000}) as client:
        answer = ask(client)
    assert len(answer["tool_calls"][0]["result"]) == 5000
    assert "4000 characters left out" in answer["message"]["content"]


def test_the_operators_words_come_first(own_chat: OpenChat, llm: ScriptedLlm) -> None:
    with own_chat({"instructions": "Answer in French."}) as client:
        ask(client)
    assert "Answer in French." in llm.requests[0]["messages"][0]["content"]


def test_a_server_that_is_down_costs_its_tools_only(
    gateway: Gateway, client: httpx.Client, llm: ScriptedLlm, chat: Chat
) -> None:
    gateway.kill_server("other")
    dies = ("o_mark", {"file": str(gateway.folder / "dies")})
    llm.play(call(dies, ("raw_echo", {"message": "hi"})), quote())
    answer = ask(client)
    down, up = answer["tool_calls"]
    assert "went away" in down["error"] or "not connected" in down["error"]
    assert up["result"] == "hi"
    assert "Error: " in answer["message"]["content"]
