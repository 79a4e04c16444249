"""What takes minutes and hours, on a clock that is injected: the gateway, its HTTP and a server are
real, and all in one loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mcpcp import pins, service
from mcpcp.audit import log
from mcpcp.callers import Caller
from mcpcp.config import load
from mcpcp.eras import PARKED_FOR
from mcpcp.errors import DeadlineExceeded, Interrupted
from mcpcp.gateway import Gateway
from mcpcp.jsonrpc import Message, RpcError
from mcpcp.methods import dispatch
from mcpcp.profiles import profile_of
from mcpcp.protocol import META_CLIENT_CAPABILITIES
from tests.gateway import fastclock
from tests.gateway.harness import FOREVER, call
from tests.gateway.rude_http import Answer, RudeHttp, rude_http, said
from tests.gateway.test_faults import events
from tests.modern import META

HOUR, MINUTE = 3600.0, 60.0
ABLE: Message = {"elicitation": {}}


@pytest.fixture(autouse=True)
def _lazy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What looks at a file once a second would do so thousands of times in an hour."""
    for place, name in ((pins, "CHECK_EVERY"), (service, "WATCH_EVERY"), (log, "SYNC_EVERY")):
        monkeypatch.setattr(place, name, 30.0)


class Told:
    """A modern client's way back: it is told, not asked."""

    def __init__(self) -> None:
        self.heard: list[Message] = []

    def notify(self, message: Message) -> None:
        self.heard.append(message)

    async def ask(self, method: str, params: Message) -> Any:
        raise AssertionError(method)


@asynccontextmanager
async def gateway_to(
    folder: Path, keys: Path, answer: Answer, **hints: bool
) -> AsyncIterator[tuple[Gateway, RudeHttp]]:
    """A gateway in this loop, and the server behind it, whose calls may be silent for 10 min."""
    async with rude_http(answer, **hints) as rude:
        settings: dict[str, Any] = {
            "mcpServers": {"rude": {"url": rude.server.url, "timeout": "10m"}},
            "agents": {"tester": {"allow": {"*": ["*"]}}},
            "gateway": {"anonymous": "tester", "first_list_wait": FOREVER},
            "keys_dir": str(keys),
            "data_dir": str(folder / "data"),
        }
        file = folder / "mcpcp.json"
        file.write_text(json.dumps(settings))
        async with service.running_gateway(load(file, {}), None) as gateway:
            await gateway.registry.first_offers(gateway.authenticate(None).allow)
            yield gateway, rude


async def do(gateway: Gateway, back: Told, **members: Any) -> Any:
    """A modern client's call of the server's one tool, `members` beside the usual params."""
    can = {META_CLIENT_CAPABILITIES: members.pop("can", {})}
    meta = {**META, "progressToken": "p", **can}
    caller = Caller(
        gateway.authenticate(None), modern=True, declared=profile_of(can[META_CLIENT_CAPABILITIES])
    )
    params = {**call("rude_do"), **members, "_meta": meta}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    return await dispatch(gateway, caller, message, back)


def chunk(message: Any) -> bytes:
    data = b"data: " + (message if isinstance(message, bytes) else json.dumps(message).encode())
    return b"%x\r\n%b\n\n\r\n" % (len(data) + 2, data)


def progress(message: Any, number: int) -> Message:
    params = {"progressToken": message["params"]["_meta"]["progressToken"], "progress": number}
    return {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}


def test_a_call_of_an_hour_that_tells_of_its_progress_is_answered(
    tmp_path: Path, keys: Path
) -> None:
    async def answer(message: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(events(end=False))
        for number in range(60):
            await asyncio.sleep(MINUTE)
            writer.write(chunk(progress(message, number)))
        writer.write(chunk(said(message, "an hour later")) + b"0\r\n\r\n")

    async def work() -> None:
        back = Told()
        async with gateway_to(tmp_path, keys, answer) as (gateway, rude):
            loop = asyncio.get_running_loop()
            began = loop.time()
            with fastclock.jumping():
                result = await do(gateway, back)
            assert loop.time() - began >= HOUR
            assert result["content"][0]["text"] == "an hour later"
            assert len(rude.calls) == 1
        told = [m["params"] for m in back.heard]
        assert told == [{"progressToken": "p", "progress": number} for number in range(60)]

    fastclock.run(work())


def test_a_call_that_falls_silent_after_half_an_hour_ends_ten_minutes_later(
    tmp_path: Path, keys: Path
) -> None:
    async def answer(message: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(events(end=False))
        for number in range(30):
            await asyncio.sleep(MINUTE)
            writer.write(chunk(progress(message, number)))

    async def work() -> None:
        async with gateway_to(tmp_path, keys, answer) as (gateway, _):
            loop = asyncio.get_running_loop()
            began = loop.time()
            late = pytest.raises(DeadlineExceeded, match="no answer and no progress within 600 s")
            with fastclock.jumping(), late:
                await do(gateway, Told())
            assert 39 * MINUTE < loop.time() - began < 45 * MINUTE

    fastclock.run(work())


QUESTION = {"message": "how many?", "requestedSchema": {"type": "object", "properties": {}}}


async def ask_in_mid_call(message: Any, writer: asyncio.StreamWriter) -> None:
    """A question on the call's stream; whatever comes of it, the stream is left open."""
    asked = {"jsonrpc": "2.0", "id": "q", "method": "elicitation/create", "params": QUESTION}
    writer.write(events(json.dumps(asked).encode(), end=False))


@pytest.mark.parametrize("late", [False, True])
def test_a_request_state_is_good_for_ten_minutes_and_no_longer(
    tmp_path: Path, keys: Path, late: bool
) -> None:
    async def work() -> None:
        async with gateway_to(tmp_path, keys, ask_in_mid_call) as (gateway, rude):
            parked = await do(gateway, Told(), can=ABLE)
            assert parked["resultType"] == "input_required"
            (key, asked), *_ = parked["inputRequests"].items()
            assert asked == {"method": "elicitation/create", "params": QUESTION}
            with fastclock.jumping():
                await asyncio.sleep(PARKED_FOR + (1 if late else -MINUTE))
            again = {
                "requestState": parked["requestState"],
                "inputResponses": {key: {"action": "accept", "content": {}}},
                "can": ABLE,
            }
            if late:
                with pytest.raises(RpcError, match="not valid any more: call again"):
                    await do(gateway, Told(), **again)
                return
            # In time: the answer goes to the server, and its call goes on.
            async with asyncio.TaskGroup() as tasks:
                going_on = tasks.create_task(do(gateway, Told(), **again))
                await rude.answered.wait()
                assert rude.answers == [{"id": "q", "result": {"action": "accept", "content": {}}}]
                going_on.cancel()

    fastclock.run(work())


def test_a_call_that_was_delivered_and_not_answered_is_not_sent_again(
    tmp_path: Path, keys: Path
) -> None:
    async def answer(message: Any, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def work(repeatable: bool) -> int:
        folder = tmp_path / str(repeatable)
        folder.mkdir()
        async with gateway_to(folder, keys, answer, idempotentHint=repeatable) as (gateway, rude):
            with pytest.raises(Interrupted, match="whether it took effect is not known"):
                await do(gateway, Told())
            return len(rude.calls)

    assert fastclock.run(work(False)) == 1
    assert fastclock.run(work(True)) == 2
