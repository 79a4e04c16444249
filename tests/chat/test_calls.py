"""Calls under way: in parallel, with progress, and cancelled with their caller."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from mcpcp.chat.service import DRAIN, LAST_WORDS
from tests.chat.harness import PATIENCE, Chat, ask, asking, events_of, messages, open_chat, stream
from tests.chat.scripted import ScriptedLlm, call, say
from tests.gateway.harness import Gateway


def begun(file: Path) -> bool:
    return file.exists() and "begun" in file.read_text()


def test_calls_of_one_answer_run_at_once(
    client: httpx.Client, gateway: Gateway, llm: ScriptedLlm, tmp_path: Path
) -> None:
    one, two, until = tmp_path / "one", tmp_path / "two", tmp_path / "until"
    waits = [("raw_wait", {"file": str(f), "until": str(until)}) for f in (one, two)]
    llm.play(call(*waits), say("Both."))
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(ask(client)))
    asking.start()
    try:
        gateway.wait(lambda: begun(one) and begun(two), "both have begun")
    finally:
        until.touch()
        asking.join()
    assert [record["result"] for record in answers[0]["tool_calls"]] == ["released", "released"]


def test_progress_is_told_while_the_tool_runs(client: httpx.Client, llm: ScriptedLlm) -> None:
    llm.play(call(("raw_progress", {"steps": 3})), say("Done."))
    events = stream(client)
    told = [data for name, data in events if name == "tool_progress"]
    assert [t["progress"] for t in told] == [0, 1, 2]
    assert {t["id"] for t in told} == {"call-0"}
    assert told[0]["message"] == "step 0"
    assert [n for n, _ in events].index("tool_progress") < [n for n, _ in events].index(
        "tool_finished"
    )


@pytest.mark.parametrize("streaming", [True, False])
def test_a_caller_that_leaves_cancels_the_tool_call(
    chat: Chat, gateway: Gateway, llm: ScriptedLlm, tmp_path: Path, streaming: bool
) -> None:
    file = tmp_path / "file"
    llm.play(call(("raw_wait", {"file": str(file)})), say("never asked"))
    body = {"messages": messages("Go on"), "stream": streaming}
    with asking(chat, gateway.token(), "/chat", body):
        gateway.wait(lambda: begun(file), "the call has begun")
    gateway.wait(lambda: "cancelled" in file.read_text(), "the tool was cancelled")
    gateway.wait(lambda: 'outcome="cancelled"' in chat.metrics(), "it is counted")


def test_a_caller_that_leaves_ends_the_models_answer(
    chat: Chat, gateway: Gateway, llm: ScriptedLlm
) -> None:
    llm.play(llm.stall("Once upon a time"))
    body = {"messages": messages("Go on"), "stream": True}
    with (
        chat.client(gateway.token()) as client,
        client.stream("POST", "/chat", json=body) as answer,
    ):
        assert next(events_of(answer)) == ("token", {"text": "Once upon a time"})
    assert llm.left.wait(PATIENCE)


def test_execute_is_cancelled_with_its_caller(chat: Chat, gateway: Gateway, tmp_path: Path) -> None:
    file = tmp_path / "file"
    body = {"name": "raw_wait", "arguments": {"file": str(file)}}
    with asking(chat, gateway.token(), "/execute", body):
        gateway.wait(lambda: begun(file), "the call has begun")
    gateway.wait(lambda: "cancelled" in file.read_text(), "the tool was cancelled")


@pytest.mark.parametrize("stands_still", [False, True])
def test_stopping_the_service_ends_what_is_under_way(
    gateway: Gateway, llm: ScriptedLlm, tmp_path: Path, stands_still: bool
) -> None:
    file = tmp_path / "file"
    llm.play(call(("raw_wait", {"file": str(file)})), say("never asked"))
    body = {"messages": messages("Go on"), "stream": True}
    with (
        open_chat(gateway.config, gateway.environ, LLM_BASE_URL=llm.url) as chat,
        chat.client(gateway.token()) as client,
        client.stream("POST", "/chat", json=body) as answer,
    ):
        events = events_of(answer)
        assert next(events)[0] == "tool_started"
        gateway.wait(lambda: begun(file))
        chat.process.terminate()
        gateway.wait(lambda: not chat.status("/health"), "it takes no more requests")
        if stands_still:  # for longer than it waits for anything
            chat.process.send_signal(signal.SIGSTOP)
            time.sleep(DRAIN + LAST_WORDS)
            chat.process.send_signal(signal.SIGCONT)
        assert chat.process.wait(PATIENCE) == 0
        name, data = list(events)[-1]
        assert name == "error" and "is stopping" in data["error"]["message"]
    gateway.wait(lambda: "cancelled" in file.read_text(), "the tool was cancelled")
