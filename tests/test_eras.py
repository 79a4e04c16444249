"""Questions of one era asked in the other's words: the loop, and the parking lot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mcpcp.eras import MOST_PARKED, MOST_ROUNDS, PARKED_FOR, ParkingLot, with_answers
from mcpcp.errors import Interrupted, ProtocolError
from mcpcp.jsonrpc import INVALID_PARAMS, Message, RpcError
from mcpcp.peer import Back

pytestmark = pytest.mark.anyio

PATIENCE = 90.0
"""Seconds after which something hangs: how busy the machine is must not matter."""


class Asked:
    """A client that answers each question with its own name."""

    def __init__(self, *refused: str) -> None:
        self.questions: list[tuple[str, Message]] = []
        self.told: list[Message] = []
        self._refused = refused

    def notify(self, message: Message) -> None:
        self.told.append(message)

    async def ask(self, method: str, params: Message) -> Any:
        self.questions.append((method, params))
        if method in self._refused:
            raise RpcError(-1, f"no {method}", {"kept": 1})
        return {"answers": method}


def required(state: str | None = None, **requests: Any) -> Message:
    result: Message = {"resultType": "input_required", "inputRequests": requests}
    return result if state is None else {**result, "requestState": state}


class Scripted:
    """A modern server that answers with `results`, one after the other."""

    def __init__(self, *results: Any) -> None:
        self.seen: list[Message] = []
        self._results = list(results)

    async def __call__(self, params: Message) -> Any:
        self.seen.append(params)
        return self._results.pop(0) if len(self._results) > 1 else self._results[0]


DONE = {"resultType": "complete", "content": []}


async def test_a_result_for_good_is_the_result() -> None:
    server = Scripted(DONE)
    assert await with_answers(server, {"name": "t"}, Asked()) == DONE
    assert server.seen == [{"name": "t"}]


async def test_questions_become_requests_and_their_answers_the_next_try() -> None:
    client = Asked()
    first = required("s1", a={"method": "roots/list"}, b={"method": "x/y", "params": {"p": 1}})
    server = Scripted(first, required(c={"method": "z"}), DONE)
    assert await with_answers(server, {"name": "t"}, client) == DONE
    assert sorted(client.questions) == [("roots/list", {}), ("x/y", {"p": 1}), ("z", {})]
    answers = {"a": {"answers": "roots/list"}, "b": {"answers": "x/y"}}
    assert server.seen[1] == {"name": "t", "inputResponses": answers, "requestState": "s1"}
    last = {"name": "t", "inputResponses": {"c": {"answers": "z"}}}
    assert server.seen[2] == last, "a state is good for one round"


async def test_a_state_without_questions_is_only_shown_again() -> None:
    server = Scripted({"resultType": "input_required", "requestState": "s"}, DONE)
    assert await with_answers(server, {}, Asked()) == DONE
    assert server.seen == [{}, {"requestState": "s"}]


async def test_a_client_s_refusal_is_the_call_s_error_as_it_came() -> None:
    server = Scripted(required(a={"method": "roots/list"}, b={"method": "other"}))
    with pytest.raises(RpcError) as caught:
        await with_answers(server, {}, Asked("roots/list"))
    assert caught.value.error == {"code": -1, "message": "no roots/list", "data": {"kept": 1}}
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "result",
    [
        {"resultType": "input_required", "inputRequests": [1]},
        required(a="no object"),
        required(a={"params": {}}),
        required(a={"method": 5}),
    ],
)
async def test_questions_of_a_wrong_shape_break_the_protocol(result: Any) -> None:
    with pytest.raises(ProtocolError):
        await with_answers(Scripted(result), {}, Asked())


async def test_a_server_that_never_has_enough_is_given_up() -> None:
    server = Scripted(required("s", a={"method": "x"}))
    with pytest.raises(ProtocolError, match="more than"):
        await with_answers(server, {}, Asked())
    assert len(server.seen) == MOST_ROUNDS


# The parking lot


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Lot:
    """A lot whose calls run in a task group of the test's, as they do in the gateway's."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self.clock = Clock()
        self.lot = ParkingLot(tasks.create_task, self.clock)
        self.back = Asked()
        self.ended: list[str] = []

    async def call(self, owner: object, params: Message, *methods: str) -> Any:
        return await self.lot.call(owner, params, self.back, lambda back: self._ask(back, methods))

    async def _ask(self, back: Back, methods: tuple[str, ...]) -> Any:
        try:
            answers = [await back.ask(method, {"n": n}) for n, method in enumerate(methods)]
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        back.notify({"method": "told"})
        return {"content": answers}


@asynccontextmanager
async def lot() -> AsyncIterator[Lot]:
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        yield Lot(tasks)


def next_try(result: Message, *answers: Any) -> Message:
    responses = dict(zip(result["inputRequests"], answers, strict=True))
    return {"requestState": result["requestState"], "inputResponses": responses}


async def test_a_call_that_asks_nothing_is_answered_and_told_of() -> None:
    async with lot() as parked:
        assert await parked.call("me", {}) == {"content": []}
        assert parked.back.told == [{"method": "told"}]


async def test_each_question_parks_the_call_until_it_is_answered() -> None:
    async with lot() as parked:
        first = await parked.call("me", {}, "a", "b")
        assert first["resultType"] == "input_required"
        assert list(first["inputRequests"].values()) == [{"method": "a", "params": {"n": 0}}]
        second = await parked.call("me", next_try(first, "one"))
        assert list(second["inputRequests"].values()) == [{"method": "b", "params": {"n": 1}}]
        assert await parked.call("me", next_try(second, "two")) == {"content": ["one", "two"]}
        with pytest.raises(RpcError, match="call again"):
            await parked.call("me", next_try(second, "two"))


async def test_a_state_shown_without_answers_is_asked_again() -> None:
    async with lot() as parked:
        first = await parked.call("me", {}, "a")
        state = {"requestState": first["requestState"]}
        assert (await parked.call("me", state))["inputRequests"] == first["inputRequests"]
        assert await parked.call("me", next_try(first, 1)) == {"content": [1]}


@pytest.mark.parametrize("wrong", ["owner", "expired", "changed", "cut", "invented"])
async def test_a_state_is_good_for_its_owner_alone_unchanged_and_for_a_while(wrong: str) -> None:
    async with lot() as parked:
        good = await parked.call(("agent", "tool"), {}, "a")
        params, owner = next_try(good, "stolen"), ("agent", "tool")
        state = params["requestState"]
        if wrong == "owner":
            owner = ("other", "tool")
        elif wrong == "expired":
            parked.clock.now += PARKED_FOR + 1
        else:
            expires = state.split(".")[2]
            later = state.replace(expires, str(int(expires) + 9))
            bad = {"changed": later, "cut": state[:-1], "invented": "mcpcp.x.9999999999.00"}
            params["requestState"] = bad[wrong]
        with pytest.raises(RpcError) as caught:
            await parked.call(owner, params)
        assert caught.value.error["code"] == INVALID_PARAMS
        parked.clock.now = 1_000_000.0
        assert await parked.call(("agent", "tool"), next_try(good, "mine")) == {"content": ["mine"]}


async def test_another_server_s_state_is_none_of_ours() -> None:
    async with lot() as parked:
        assert await parked.call("me", {"requestState": "theirs"}) == {"content": []}


async def test_responses_of_a_wrong_shape_are_refused_and_the_call_stays_parked() -> None:
    async with lot() as parked:
        first = await parked.call("me", {}, "a")
        with pytest.raises(RpcError, match="must be an object"):
            await parked.call("me", {**next_try(first, 1), "inputResponses": [1]})
        assert await parked.call("me", next_try(first, 1)) == {"content": [1]}


async def test_an_error_in_a_parked_call_is_its_client_s_and_ends_nothing_else() -> None:
    """The calls run beside the gateway's own tasks, which a failing one must not take along."""

    async def fails(error: Exception) -> Any:
        raise error

    async with lot() as parked:
        other = await parked.call("me", {}, "a")
        for error in (RpcError(-5, "no"), Interrupted("gone"), ValueError("a bug")):

            def begin(_: Back, error: Exception = error) -> Coroutine[Any, Any, Any]:
                return fails(error)

            with pytest.raises(type(error)):
                await parked.lot.call("me", {}, parked.back, begin)
        assert await parked.call("me", next_try(other, 1)) == {"content": [1]}


async def test_a_client_that_leaves_ends_its_call() -> None:
    async with lot() as parked:
        first = await parked.call("me", {}, "a", "b")
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(parked.call("me", {}, "c"))
            done, _ = await asyncio.wait((waiting,), timeout=PATIENCE)
            assert done, "a question is an answer"
            again = tasks.create_task(parked.lot.call("me", {}, parked.back, _never))
            await asyncio.sleep(0)
            again.cancel()
        assert first["requestState"] != waiting.result()["requestState"]
        for result in (first, waiting.result()):
            params = next_try(result, 1)
            answer = await parked.call("me", params)
            if "requestState" in answer:
                await parked.call("me", next_try(answer, 2))


async def _never(_: Back) -> Any:
    await asyncio.Event().wait()


async def test_a_question_that_the_server_takes_back_parks_nothing() -> None:
    taken_back = asyncio.Event()

    async def begin(back: Back) -> Any:
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(back.ask("a", {}))
            await asyncio.sleep(0)
            asking.cancel()
        await taken_back.wait()
        return {"content": "without"}

    async with lot() as parked, asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(parked.lot.call("me", {}, parked.back, begin))
        for _ in range(10):
            await asyncio.sleep(0)
        taken_back.set()
        result = await waiting
        if "requestState" in result:  # it was quicker to ask than to take back: nothing is open
            result = await parked.call("me", {"requestState": result["requestState"]})
        assert result == {"content": "without"}


async def test_no_more_calls_are_parked_than_there_is_room_for() -> None:
    async with lot() as parked:
        states = [await parked.call("me", {}, "a") for _ in range(MOST_PARKED)]
        with pytest.raises(RpcError, match="too many"):
            await parked.call("me", {}, "a")
        for state in states:
            await parked.call("me", next_try(state, 1))
        assert (await parked.call("me", {}, *()))["content"] == []
