"""`/v1` with OpenAI's own client: what any chat program would do."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.chat.harness import PATIENCE, Chat
from tests.chat.scripted import ScriptedLlm, call, quote, refuse, say
from tests.gateway.harness import Gateway


@pytest.fixture
def program(chat: Chat, gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{chat.url}/v1", api_key=gateway.token(), max_retries=0, timeout=PATIENCE
    ) as client:
        yield client


def test_a_completion_rests_on_tools_that_ran_here(
    program: openai.OpenAI, llm: ScriptedLlm
) -> None:
    llm.play(call(("raw_echo", {"message": "hi"})), quote())
    answer = program.chat.completions.create(
        model="scripted", messages=[{"role": "user", "content": "Go on"}], temperature=0.5
    )
    assert "hi" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.tool_calls is None
    assert answer.usage is not None and answer.usage.total_tokens == 24
    assert llm.requests[0]["temperature"] == 0.5


def test_a_streamed_completion_comes_in_pieces_with_its_usage(
    program: openai.OpenAI, llm: ScriptedLlm
) -> None:
    llm.play(call(("raw_echo", {"message": "hi"})), say("It ", "said ", "hi."))
    with program.chat.completions.create(
        model="scripted",
        messages=[{"role": "user", "content": "Go on"}],
        stream=True,
        stream_options={"include_usage": True},
    ) as chunks:
        got = list(chunks)
    texts = [c.choices[0].delta.content for c in got if c.choices]
    assert [t for t in texts if t] == ["It ", "said ", "hi."]
    assert got[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in got if c.choices][-1] == "stop"
    assert got[-1].usage is not None and got[-1].usage.total_tokens == 24
    assert len({c.id for c in got}) == 1


def test_models_are_listed_the_default_first(
    program: openai.OpenAI, gateway: Gateway, llm: ScriptedLlm
) -> None:
    llm.models = ["another", "scripted"]

    def listed() -> list[str]:
        return [model.id for model in program.models.list()]

    # While an endpoint is slow to list its models, there is the default.
    found = gateway.wait(lambda: (names := listed()) != ["scripted"] and names)
    assert found == ["scripted", "another"]


def test_a_bad_token_is_an_authentication_error(chat: Chat) -> None:
    with (
        openai.OpenAI(base_url=f"{chat.url}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError, match="token"),
    ):
        client.models.list()


def test_an_error_before_the_first_token_has_its_status_even_when_streaming(
    program: openai.OpenAI, llm: ScriptedLlm
) -> None:
    llm.play(refuse(401, {"error": "no"}))
    with pytest.raises(openai.APIStatusError, match="LLM_API_KEY") as caught:
        program.chat.completions.create(
            model="scripted", messages=[{"role": "user", "content": "Hi"}], stream=True
        )
    assert caught.value.status_code == 502


def test_an_error_in_the_middle_reaches_the_program(
    program: openai.OpenAI, llm: ScriptedLlm
) -> None:
    llm.play(call(("raw_echo", {"message": "hi"}), text="Let me see."), refuse(401, {}))
    with (
        program.chat.completions.create(
            model="scripted", messages=[{"role": "user", "content": "Hi"}], stream=True
        ) as chunks,
        pytest.raises(openai.APIError, match="LLM_API_KEY"),
    ):
        list(chunks)


def test_a_programs_own_tools_are_refused_with_the_reason(program: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="tools"):
        program.chat.completions.create(
            model="scripted",
            messages=[{"role": "user", "content": "Hi"}],
            tools=[{"type": "function", "function": {"name": "mine", "parameters": {}}}],
        )
