"""The raw-dict peer over a transport in memory: ids, progress, cancellation, deadlines."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpcp import patience
from mcpcp.errors import DeadlineExceeded, Interrupted, ProtocolError, Unavailable
from mcpcp.jsonrpc import (
    METHOD_NOT_FOUND,
    Message,
    RpcError,
    encode,
    notification,
    response,
)
from mcpcp.peer import Back, Peer
from mcpcp.protocol import LISTEN, UPDATED
from tests.gateway import fastclock

pytestmark = pytest.mark.anyio

SOON = 90.0
"""Seconds after which something hangs: how busy the machine is must not matter."""
NEVER = 600.0


class Wire:
    """A transport that keeps what was sent; the test plays the server."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[Message] = asyncio.Queue()
        self.abandoned: list[int] = []
        self.refusal: Exception | None = None
        self.gate: asyncio.Event | None = None

    async def send(self, message: Message) -> None:
        if self.refusal is not None:
            raise self.refusal
        if self.gate is not None:
            await self.gate.wait()
        self.sent.put_nowait(message)

    def send_soon(self, message: Message) -> None:
        self.sent.put_nowait(message)

    def abandon(self, request_id: int) -> None:
        self.abandoned.append(request_id)

    async def next(self) -> Message:
        async with asyncio.timeout(SOON):
            return await self.sent.get()


class Ears:
    """What a server says beside its answers, kept; what it asks, answered by asking back."""

    def __init__(self, heard: list[Message]) -> None:
        self._heard = heard

    def on_notification(self, message: Message) -> None:
        self._heard.append(message)

    async def on_request(self, message: Message, back: Back | None) -> Any:
        if back is None:
            raise RpcError(METHOD_NOT_FOUND, "nobody to ask")
        return await back.ask(message["method"], message.get("params") or {})


class Client:
    """A client that keeps what it is told, and answers what it is asked when it is let."""

    def __init__(self) -> None:
        self.told: list[Message] = []
        self.asked: asyncio.Queue[tuple[str, Message]] = asyncio.Queue()
        self.answers: asyncio.Queue[Any] = asyncio.Queue()

    def notify(self, message: Message) -> None:
        self.told.append(message)

    async def ask(self, method: str, params: Message) -> Any:
        self.asked.put_nowait((method, params))
        return await self.answers.get()


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def heard() -> list[Message]:
    """Notifications that the peer handed on."""
    return []


@pytest.fixture
async def peer(wire: Wire, heard: list[Message]) -> Peer:
    return Peer(wire, Ears(heard))


def result(request_id: Any, value: Any) -> Message:
    return response(request_id, value)


def progress(token: Any, value: float, **more: Any) -> Message:
    return notification(
        "notifications/progress", {"progressToken": token, "progress": value, **more}
    )


async def test_answers_find_their_requests_in_whatever_order_they_come(
    peer: Peer, wire: Wire
) -> None:
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(peer.request("m", {"n": n}, NEVER)) for n in range(50)]
        requests = [await wire.next() for _ in asked]
        assert len({request["id"] for request in requests}) == 50
        for request in reversed(requests):
            peer.receive(result(request["id"], request["params"]["n"]))
    assert [task.result() for task in asked] == list(range(50))
    assert peer.idle_since is not None


@pytest.mark.parametrize("alike", [True, 1.0, "1", [1], None])
async def test_an_answer_to_an_id_that_is_only_equal_to_ours_is_no_answer(
    peer: Peer, wire: Wire, alike: Any
) -> None:
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(peer.request("m", {}, NEVER))
        assert (await wire.next())["id"] == 1
        peer.receive(result(alike, "a stranger's"))
        peer.receive(result(1, "ours"))
    assert asked.result() == "ours"


async def test_an_error_of_the_server_comes_whole_with_members_that_we_do_not_know(
    peer: Peer, wire: Wire
) -> None:
    error = {"code": -1, "message": "no", "data": {"x": 1}, "later": True}
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(failure(peer))
        request = await wire.next()
        peer.receive({"jsonrpc": "2.0", "id": request["id"], "error": error})
    assert asked.result().error == error


async def failure(peer: Peer) -> RpcError:
    with pytest.raises(RpcError) as caught:
        await peer.request("m", {}, NEVER)
    return caught.value


async def test_a_progress_token_is_ours_on_the_way_and_the_client_s_on_the_way_back(
    peer: Peer, wire: Wire
) -> None:
    client = Client()
    params = {"name": "x", "_meta": {"progressToken": "client's", "other": 1}}
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(peer.request("tools/call", params, NEVER, client))
        sent = await wire.next()
        token = sent["params"]["_meta"]["progressToken"]
        assert token == sent["id"]
        assert sent["params"]["_meta"]["other"] == 1
        peer.receive(progress(token, 1, message="half", extra=[1]))
        peer.receive(progress("client's", 2))
        peer.receive(progress(token + 1, 3))
        peer.receive(result(sent["id"], "done"))
    assert asked.result() == "done"
    assert client.told == [progress("client's", 1, message="half", extra=[1])]
    assert params["_meta"] == {"progressToken": "client's", "other": 1}


async def test_progress_that_comes_too_late_or_was_not_asked_for_goes_nowhere(
    peer: Peer, wire: Wire, heard: list[Message]
) -> None:
    client = Client()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(peer.request("m", {}, NEVER, client))
        sent = await wire.next()
        peer.receive(progress(sent["id"], 1))
        peer.receive(result(sent["id"], None))
    peer.receive(progress(sent["id"], 2))
    assert not client.told
    assert not heard


async def test_a_request_without_an_answer_ends_at_its_deadline_and_the_server_is_told(
    peer: Peer, wire: Wire
) -> None:
    with pytest.raises(DeadlineExceeded, match=r"0\.05 s"):
        await peer.request("m", {}, 0.05)
    request, cancelled = await wire.next(), await wire.next()
    assert cancelled["method"] == "notifications/cancelled"
    assert cancelled["params"]["requestId"] == request["id"]
    assert wire.abandoned == [request["id"]]
    peer.receive(result(request["id"], "too late"))
    assert peer.idle_since is not None


@pytest.mark.skipif(sys.platform == "win32", reason="there is no uvloop")
def test_a_deadline_that_is_almost_now_ends_its_request_and_those_after_it(
    wire: Wire, heard: list[Message]
) -> None:
    async def work() -> None:
        peer = Peer(wire, Ears(heard))
        for seconds in (0.0, 0.0001, 0.01):
            async with asyncio.timeout(SOON):
                assert isinstance(await deadline(peer, seconds), DeadlineExceeded)
        async with asyncio.timeout(SOON):
            with pytest.raises(TimeoutError):
                async with patience.patience(0.0001):
                    await asyncio.sleep(NEVER)

    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work())


def test_progress_moves_the_deadline(wire: Wire, heard: list[Message]) -> None:
    async def work() -> None:
        peer, loop = Peer(wire, Ears(heard)), asyncio.get_running_loop()
        began = loop.time()
        with fastclock.jumping():
            async with asyncio.TaskGroup() as tasks:
                asked = tasks.create_task(peer.request("m", {}, 40))
                sent = await wire.next()
                for _ in range(10):
                    await asyncio.sleep(30)
                    peer.receive(progress(sent["id"], 1))
                peer.receive(result(sent["id"], "slow but alive"))
            assert asked.result() == "slow but alive"
            assert loop.time() - began >= 300

    fastclock.run(work())


async def test_an_answer_that_came_while_we_stood_still_came_in_time(
    peer: Peer, wire: Wire
) -> None:
    """As a machine under load does to a process: time passes, and nothing of it is ours."""
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(peer.request("m", {}, 0.2))
        sent = await wire.next()
        time.sleep(1.0)  # noqa: ASYNC251  which is what this is about
        loop.call_later(0.05, peer.receive, result(sent["id"], "in time"))
    assert asked.result() == "in time"


async def test_who_stands_still_all_the_time_does_not_wait_for_ever(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "MOST_MOVED", 0.5)
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(deadline(peer, 0.5))
        for _ in range(5):
            await asyncio.sleep(0)
            time.sleep(1.0)  # noqa: ASYNC251  late by half a second, again and again
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert asked.done()


async def test_after_the_last_progress_the_deadline_counts_again(peer: Peer, wire: Wire) -> None:
    async with asyncio.timeout(SOON), asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(deadline(peer, 0.1))
        sent = await wire.next()
        peer.receive(progress(sent["id"], 1))
    assert isinstance(asked.result(), DeadlineExceeded)


async def deadline(peer: Peer, seconds: float) -> Exception:
    with pytest.raises(DeadlineExceeded) as caught:
        await peer.request("m", {}, seconds)
    return caught.value


async def test_a_transport_that_does_not_take_the_request_counts_against_the_deadline(
    peer: Peer, wire: Wire
) -> None:
    wire.gate = asyncio.Event()
    with pytest.raises(DeadlineExceeded):
        await peer.request("m", {}, 0.05)
    assert peer.idle_since is not None


async def test_a_cancelled_caller_tells_the_server_once(peer: Peer, wire: Wire) -> None:
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(peer.request("m", {}, NEVER))
        request = await wire.next()
        asked.cancel()
    cancelled = await wire.next()
    assert cancelled["params"]["requestId"] == request["id"]
    assert "id" not in cancelled
    assert wire.abandoned == [request["id"]]
    assert wire.sent.empty()
    assert peer.idle_since is not None


async def test_initialize_is_never_cancelled(peer: Peer, wire: Wire) -> None:
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(peer.request("initialize", {}, NEVER))
        await wire.next()
        asked.cancel()
    assert wire.sent.empty()


async def test_a_request_that_was_not_delivered_is_forgotten(peer: Peer, wire: Wire) -> None:
    wire.refusal = Unavailable("away")
    with pytest.raises(Unavailable, match="away"):
        await peer.request("m", {}, NEVER)
    assert peer.idle_since is not None


async def test_closing_ends_what_is_in_flight_and_refuses_what_comes_later(
    peer: Peer, wire: Wire
) -> None:
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(interrupted(peer)) for _ in range(3)]
        for _ in asked:
            await wire.next()
        peer.close("gone", lambda: Interrupted("it went away"))
    assert [str(task.result()) for task in asked] == ["it went away"] * 3
    with pytest.raises(Unavailable, match="gone"):
        await peer.request("m", {}, NEVER)
    assert wire.sent.empty(), "nothing is said to a server that has gone"


async def interrupted(peer: Peer) -> Exception:
    with pytest.raises(Interrupted) as caught:
        await peer.request("m", {}, NEVER)
    return caught.value


async def test_one_request_can_fail_alone(peer: Peer, wire: Wire) -> None:
    async with asyncio.TaskGroup() as tasks:
        lost = tasks.create_task(interrupted(peer))
        first = await wire.next()
        kept = tasks.create_task(peer.request("m", {}, NEVER))
        second = await wire.next()
        peer.fail(first["id"], Interrupted("its stream ended"))
        peer.fail("unknown", Interrupted("nobody"))
        peer.receive(result(second["id"], 2))
    assert str(lost.result()) == "its stream ended"
    assert kept.result() == 2


async def test_a_second_answer_and_a_failure_after_the_answer_change_nothing(
    peer: Peer, wire: Wire
) -> None:
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(peer.request("m", {}, NEVER))
        request = await wire.next()
        peer.receive(result(request["id"], "first"))
        peer.receive(result(request["id"], "second"))
        peer.fail(request["id"], Interrupted("late"))
    assert asked.result() == "first"


async def test_an_answer_without_result_and_error_breaks_the_protocol(
    peer: Peer, wire: Wire
) -> None:
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(broken(peer))
        request = await wire.next()
        peer.receive({"jsonrpc": "2.0", "id": request["id"]})
    assert "neither" in str(asked.result())


async def broken(peer: Peer) -> Exception:
    with pytest.raises(ProtocolError) as caught:
        await peer.request("m", {}, NEVER)
    return caught.value


async def test_a_malformed_error_is_an_error_still(peer: Peer, wire: Wire) -> None:
    errors: list[Any] = [None, "text", [], {}, {"code": None}, {"message": 5}]
    for error in errors:
        async with asyncio.timeout(SOON), asyncio.TaskGroup() as tasks:
            asked = tasks.create_task(failure(peer))
            request = await wire.next()
            peer.receive({"jsonrpc": "2.0", "id": request["id"], "error": error})
        assert encode(asked.result().error)


async def test_a_server_s_ping_is_answered_and_its_other_requests_are_refused(
    peer: Peer, wire: Wire
) -> None:
    peer.receive({"jsonrpc": "2.0", "id": "p", "method": "ping"})
    peer.receive({"jsonrpc": "2.0", "id": 7, "method": "sampling/createMessage", "params": {}})
    assert await wire.next() == result("p", {})
    refused = await wire.next()
    assert (refused["id"], refused["error"]["code"]) == (7, METHOD_NOT_FOUND)


async def test_notifications_are_handed_on_as_they_came(peer: Peer, heard: list[Message]) -> None:
    message = notification("notifications/x", {"y": 1})
    peer.receive(message)
    assert heard == [message]


async def test_a_server_s_question_goes_to_the_client_whose_request_it_belongs_to(
    wire: Wire, heard: list[Message]
) -> None:
    first, second = Client(), Client()
    question = {"jsonrpc": "2.0", "id": "q", "method": "roots/list", "params": {"x": 1}}
    async with asyncio.timeout(SOON), asyncio.TaskGroup() as tasks:
        peer = Peer(wire, Ears(heard), tasks)
        tasks.create_task(peer.request("a", {}, NEVER, first))
        tasks.create_task(peer.request("b", {}, NEVER, second))
        a, b = await wire.next(), await wire.next()
        peer.receive(question, related=b["id"])
        assert await second.asked.get() == ("roots/list", {"x": 1})
        second.answers.put_nowait({"roots": []})
        assert await wire.next() == response("q", {"roots": []})
        assert first.asked.empty()
        peer.receive({**question, "id": "r"})  # of which of the two, nobody can know
        assert (await wire.next())["error"]["code"] == METHOD_NOT_FOUND
        for request in (a, b):
            peer.receive(result(request["id"], None))


async def test_a_request_of_our_own_beside_a_client_s_does_not_hide_whose_a_question_is(
    wire: Wire, heard: list[Message]
) -> None:
    """We list while a call is under way: without streams a question names neither."""
    client = Client()
    question = {"jsonrpc": "2.0", "id": "q", "method": "roots/list", "params": {}}
    async with asyncio.timeout(SOON), asyncio.TaskGroup() as tasks:
        peer = Peer(wire, Ears(heard), tasks)
        tasks.create_task(peer.request("tools/call", {}, NEVER, client))
        tasks.create_task(peer.request("tools/list", {}, NEVER))
        sent = [await wire.next(), await wire.next()]
        peer.receive(question)
        assert await client.asked.get() == ("roots/list", {})
        client.answers.put_nowait({"roots": []})
        assert await wire.next() == response("q", {"roots": []})
        for request in sent:
            peer.receive(result(request["id"], None))


async def test_a_call_does_not_run_out_of_time_while_its_client_is_thinking(wire: Wire) -> None:
    client = Client()
    async with asyncio.timeout(SOON), asyncio.TaskGroup() as tasks:
        peer = Peer(wire, Ears([]), tasks)
        call = tasks.create_task(peer.request("tools/call", {}, 0.05, client))
        request = await wire.next()
        peer.receive({"jsonrpc": "2.0", "id": 1, "method": "elicitation/create"})
        await client.asked.get()
        done, _ = await asyncio.wait([call], timeout=0.2)
        assert not done
        client.answers.put_nowait({"action": "accept"})
        assert (await wire.next())["result"] == {"action": "accept"}
        peer.receive(result(request["id"], "after all"))
    assert call.result() == "after all"


async def test_a_question_that_the_server_takes_back_is_not_answered(wire: Wire) -> None:
    client = Client()
    async with asyncio.timeout(SOON), asyncio.TaskGroup() as tasks:
        peer = Peer(wire, Ears([]), tasks)
        tasks.create_task(peer.request("tools/call", {}, NEVER, client))
        request = await wire.next()
        peer.receive({"jsonrpc": "2.0", "id": 1, "method": "roots/list"})
        await client.asked.get()
        peer.receive(notification("notifications/cancelled", {"requestId": 1}))
        peer.receive({"jsonrpc": "2.0", "id": 2, "method": "ping"})
        assert await wire.next() == response(2, {})
        peer.receive(result(request["id"], None))


async def test_updates_go_to_who_listens_and_else_to_the_session(
    peer: Peer, wire: Wire, heard: list[Message]
) -> None:
    listener, caller = Client(), Client()
    update = notification(UPDATED, {"uri": "x:y"})
    async with asyncio.timeout(SOON), asyncio.TaskGroup() as tasks:
        tasks.create_task(peer.request(LISTEN, {}, NEVER, listener))
        tasks.create_task(peer.request("tools/call", {}, NEVER, caller))
        listening, calling = await wire.next(), await wire.next()
        peer.receive(update, related=listening["id"])
        peer.receive(update, related=calling["id"])
        log = notification("notifications/message", {"data": "d"})
        peer.receive(log, related=calling["id"])
        for request in (listening, calling):
            peer.receive(result(request["id"], None))
    assert listener.told == [update]
    assert heard == [update]
    assert caller.told == [log]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "method", "params", "result", "error", "progressToken", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
METHODS = st.sampled_from(["ping", "notifications/progress", "notifications/x", "x"])
MESSAGES = JSON | st.fixed_dictionaries({"method": METHODS, "params": JSON})


@given(st.lists(MESSAGES | st.fixed_dictionaries({"id": JSON, "result": JSON}), max_size=5))
def test_whatever_a_server_says_it_breaks_nothing(messages: list[Any]) -> None:
    asyncio.run(_survive(messages))


async def _survive(messages: list[Any]) -> None:
    wire = Wire()
    peer = Peer(wire, Ears([]))
    async with asyncio.timeout(SOON), asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(peer.request("m", {"_meta": {"progressToken": 1}}, NEVER))
        request = await wire.next()
        for message in messages:
            if isinstance(message, dict) and message.get("id") == request["id"]:
                continue
            peer.receive(message)
        peer.receive(result(request["id"], "fine"))
    assert asked.result() == "fine"
