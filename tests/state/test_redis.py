"""State on a real Redis, which goes away and comes back."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mcpcp.config import ServerConfig, load
from mcpcp.errors import ConfigError, Limited, TokenError, Unavailable
from mcpcp.jsonrpc import decode
from mcpcp.lockfile import Definition
from mcpcp.pins import PinBook, Reviewed
from mcpcp.policy import Agent, Allowlist, Limits
from mcpcp.state import revocations as revocations_module
from mcpcp.state.connection import Redis
from mcpcp.state.events import Event
from mcpcp.state.pins import RedisPins
from mcpcp.state.revocations import RedisRevocations
from mcpcp.state.shared import SharedState
from tests.redis import PATIENCE, RedisServer, open_redis

LATER = 4e9


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with open_redis(tmp_path / "redis") as opened:
        yield opened


@asynccontextmanager
async def gateway(server: RedisServer, port: int = 9003) -> AsyncIterator[SharedState]:
    """The state of one gateway, while it runs."""
    state = SharedState(server.url, port)
    running = asyncio.ensure_future(state.run())
    try:
        yield state
    finally:
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled()


async def until(condition: Callable[[], Any]) -> None:
    async def ask() -> Any:
        return condition() or None

    await until_told(ask)


async def until_told(
    ask: Callable[[], Awaitable[Any]], wanted: Callable[[Any], bool] = lambda _: True
) -> Any:
    """The first answer that is not None, and as `wanted`."""
    deadline = time.monotonic() + PATIENCE
    while (found := await ask()) is None or not wanted(found):
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.02)
    return found


def agent(name: str = "a", **limits: Any) -> Agent:
    return Agent(name, Allowlist.of({"*": ["*"]}), "us", "id", LATER, Limits(**limits))


# Revocations


def test_a_revocation_reaches_every_gateway_within_a_second(server: RedisServer) -> None:
    async def main() -> None:
        async with gateway(server) as one, gateway(server) as two:
            await asyncio.sleep(0)
            RedisRevocations(Redis(server.url)).revoke("a", LATER)
            await until(lambda: one.revocations.is_revoked("a"))
            await until(lambda: two.revocations.is_revoked("a"))
            assert not one.revocations.is_revoked("b")

    asyncio.run(main())
    assert RedisRevocations(Redis(server.url)).is_revoked("a")


def test_records_go_when_their_tokens_have_ended(server: RedisServer) -> None:
    now = 100.0
    revocations = RedisRevocations(Redis(server.url), lambda: now)
    revocations.revoke("a", 150)
    now = 151.0
    revocations.revoke("b", 200)
    with server.client() as client:
        assert client.zrange("mcpcp:revoked", 0, -1) == ["b"]


def test_without_redis_nothing_starts_and_nothing_is_revoked(server: RedisServer) -> None:
    store = Redis(server.url)
    revocations = RedisRevocations(store)
    server.stop()
    with pytest.raises(Unavailable, match=r"the token is not revoked: .*start that Redis"):
        revocations.revoke("a", LATER)
    with pytest.raises(Unavailable, match="revoked tokens can't be read"):
        SharedState(server.url, 9003)


def test_a_password_is_in_no_message(server: RedisServer) -> None:
    server.stop()
    url = f"redis://:secret@127.0.0.1:{server.port}/0"
    with pytest.raises(Unavailable) as caught:
        RedisRevocations(Redis(url))
    assert "secret" not in str(caught.value)
    assert f"redis://127.0.0.1:{server.port}/0" in str(caught.value)


def test_a_redis_that_is_away_leaves_the_last_state_in_force_and_then_no_token_is_accepted(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with gateway(server) as state:
            RedisRevocations(Redis(server.url)).revoke("a", LATER)
            await until(lambda: state.revocations.is_revoked("a"))
            server.stop()
            assert state.revocations.is_revoked("a")
            assert not state.revocations.is_revoked("b")
            monkeypatch.setattr(revocations_module, "GRACE", 0.5)
            async with asyncio.timeout(PATIENCE):
                while True:
                    try:
                        state.revocations.is_revoked("b")
                    except TokenError as error:
                        assert error.reason == "state_away"
                        assert "start that Redis" in str(error)
                        break
                    await asyncio.sleep(0.02)
            monkeypatch.setattr(revocations_module, "GRACE", 30.0)
            server.start()
            RedisRevocations(Redis(server.url)).revoke("c", LATER)
            await until(lambda: state.revocations.is_revoked("c"))

    asyncio.run(main())


def test_a_redis_that_lost_its_memory_frees_no_token(tmp_path: Path) -> None:
    async def main(server: RedisServer) -> None:
        async with gateway(server) as state:
            RedisRevocations(Redis(server.url)).revoke("a", LATER)
            await until(lambda: state.revocations.is_revoked("a"))
            server.stop()
            server.start()
            RedisRevocations(Redis(server.url)).revoke("b", LATER)
            await until(lambda: state.revocations.is_revoked("b"))
            await until(lambda: RedisRevocations(Redis(server.url)).is_revoked("a"))

    with open_redis(tmp_path / "redis", saves=False) as server:
        asyncio.run(main(server))


# Rates


def test_gateways_share_the_calls_of_a_minute(server: RedisServer) -> None:
    async def main() -> None:
        who = agent(calls_per_minute=3)
        async with gateway(server) as one, gateway(server) as two:
            for state in (one, two, one):
                async with state.rates.admit(who):
                    pass
            with pytest.raises(Limited) as caught:
                async with two.rates.admit(who):
                    pass
            assert caught.value.rule == "calls_per_minute"
            assert 0 < (caught.value.retry_after or 0) <= 61
            async with two.rates.admit(agent("another", calls_per_minute=3)):
                pass

    asyncio.run(main())


def test_gateways_share_the_calls_in_flight_and_forget_those_that_ended(
    server: RedisServer,
) -> None:
    async def free(state: SharedState, who: Agent) -> bool | None:
        try:
            async with state.rates.admit(who):
                return True
        except Limited:
            return None

    async def main() -> None:
        who = agent(in_flight=2)
        async with gateway(server) as one, gateway(server) as two:
            await until_told(lambda: two.peers.address_of(one.peers.instance))
            await until_told(lambda: one.peers.address_of(two.peers.instance))
            async with one.rates.admit(who), two.rates.admit(who):
                for state in (one, two):
                    with pytest.raises(Limited, match="2 calls in flight"):
                        async with state.rates.admit(who):
                            pass
            assert await until_told(lambda: free(one, who))
            assert await until_told(lambda: free(two, who))

    asyncio.run(main())


def test_a_gateway_that_died_stops_counting(server: RedisServer) -> None:
    async def main() -> None:
        who = agent(in_flight=1)
        async with gateway(server) as dead:
            await until_told(lambda: dead.peers.address_of(dead.peers.instance))
            held = dead.rates.admit(who)
            await held.__aenter__()
        async with gateway(server) as state, state.rates.admit(who):
            pass

    asyncio.run(main())


def test_without_redis_each_gateway_limits_for_itself(server: RedisServer) -> None:
    async def main() -> None:
        async with gateway(server) as state:
            server.stop()
            async with state.rates.admit(agent(in_flight=1)):
                pass
            server.start()

    asyncio.run(main())


# Pins

ECHO: Definition = {"name": "echo", "description": "says it again"}
CHANGED: Definition = {"name": "echo", "description": "reads your files"}
MCP1 = ServerConfig("mcp1", "http")


def test_what_one_gateway_pinned_another_holds_the_server_to(server: RedisServer) -> None:
    one, two = (PinBook(RedisPins(Redis(server.url))) for _ in range(2))
    assert one.review(MCP1, (ECHO,)) == Reviewed((ECHO,))
    assert two.review(MCP1, (CHANGED,)).quarantined == ("echo",)
    person = PinBook(RedisPins(Redis(server.url)))
    assert person.approve(person.waiting())
    assert PinBook(RedisPins(Redis(server.url))).review(MCP1, (CHANGED,)) == Reviewed((CHANGED,))


def test_an_approval_reaches_a_running_gateway(server: RedisServer) -> None:
    async def main() -> None:
        async with gateway(server) as state:
            book = PinBook(state.pins)
            book.review(MCP1, (ECHO,))
            assert book.review(MCP1, (CHANGED,)).quarantined == ("echo",)
            person = PinBook(RedisPins(Redis(server.url)))
            person.approve(person.waiting())
            await until(lambda: book.refresh() or book.review(MCP1, (CHANGED,)).kept)
            assert book.review(MCP1, (CHANGED,)) == Reviewed((CHANGED,))

    asyncio.run(main())


def test_without_redis_what_is_pinned_stays_and_nothing_is_approved(server: RedisServer) -> None:
    book = PinBook(RedisPins(Redis(server.url)))
    book.review(MCP1, (ECHO,))
    server.stop()
    assert book.review(MCP1, (CHANGED,)).quarantined == ("echo",)
    with pytest.raises(ConfigError, match="start that Redis"):
        book.approve(book.waiting())


# Gateways and what their sessions were told


def test_gateways_find_each_other_and_sign_with_one_key(server: RedisServer) -> None:
    async def main() -> None:
        async with gateway(server, 9101) as one:
            async with gateway(server, 9102) as two:
                assert one.peers.key == two.peers.key
                session = two.peers.id()
                assert one.peers.elsewhere(session) == two.peers.instance
                assert two.peers.elsewhere(session) is None
                found = await until_told(lambda: one.peers.address_of(two.peers.instance))
                assert found == "http://127.0.0.1:9102"
            assert await one.peers.address_of(two.peers.instance) is None

    asyncio.run(main())


def test_another_gateway_tells_what_a_dead_one_had_to_tell(server: RedisServer) -> None:
    events = (
        Event(2, 5, call='"q"'),
        Event(2, 6, b"id: 2-6\ndata: first\n\n"),
        Event(3, 7, b"id: 3-7\ndata: another stream's\n\n"),
    )

    async def main() -> None:
        owner = agent().identity
        async with gateway(server) as dead, gateway(server) as state:
            keep = dead.events.keeper("s", owner)
            for event in events:
                keep(event)

            def replay() -> Awaitable[list[bytes] | None]:
                return state.events.replay("s", owner, "2-5")

            told = await until_told(replay, lambda told: len(told) == 2)
            assert told[0] == events[1].data
            answer = decode(told[1].split(b"data: ")[1])
            assert answer["id"] == "q"
            assert "not known" in answer["error"]["message"]
            keep(Event(2, 8, b"id: 2-8\ndata: the answer\n\n"))
            keep(Event(2, 9, last=True))
            answered = [events[1].data, b"id: 2-8\ndata: the answer\n\n"]
            await until_told(replay, lambda told: bool(told == answered))
            assert await state.events.replay("s", agent("thief").identity, "2-5") is None
            assert await state.events.replay("s", owner, "2-8") is None
            assert await state.events.replay("s", owner, "x") is None

    asyncio.run(main())


def test_only_a_redis_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "mcpcp.json"
    path.write_text('{"mcpServers": {}}')
    assert load(path, {"STATE_URL": "redis://here/1"}).state_url == "redis://here/1"
    assert load(path, {"STATE_URL": ""}).state_url is None
    with pytest.raises(ConfigError, match=r"STATE_URL.*redis://HOST:6379/0"):
        load(path, {"STATE_URL": "postgres://here"})


def test_without_a_url_nothing_of_redis_is_imported() -> None:
    program = (
        "import sys, mcpcp.service, mcpcp.cli.token, mcpcp.cli.pins; print('redis' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "False", ran.stderr


def test_time_is_short_for_a_redis_that_swallows_everything(server: RedisServer) -> None:
    revocations = RedisRevocations(Redis(server.plain_url))
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(Unavailable, match="the token is not revoked"):
            revocations.revoke("a", LATER)  # which a silent Redis would keep for ever
    finally:
        server.process.send_signal(signal.SIGCONT)
