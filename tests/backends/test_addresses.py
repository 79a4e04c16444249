"""A name with several addresses: calls are spread over them, sessions stay."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from mcpcp.backends import addresses
from mcpcp.backends.addresses import (
    MOST_HOMES,
    addresses_of,
    look_up,
    may_have_replicas,
    order,
)
from mcpcp.backends.http import HttpClient
from mcpcp.errors import Interrupted, Unavailable
from tests.backends.raw import PATIENCE, Handler, ask, serving, whole
from tests.ports import reserve

pytestmark = pytest.mark.anyio

REPLICAS = ("127.0.0.2", "127.0.0.3", "127.0.0.4")


@pytest.fixture(autouse=True)
def _remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses are looked up anew where one fails, not because this machine takes its time."""
    monkeypatch.setattr(addresses, "RESOLVE_EVERY", 10 * PATIENCE)


class Service:
    """A service whose name leads to some of the loopback addresses, while `running`."""

    def __init__(self, port: int, known: Sequence[str]) -> None:
        self.port = port
        self.known = known
        self.waiting = 0
        url = f"http://shop.internal:{port}"
        addresses = addresses_of(url, self.resolve)
        assert addresses is not None
        self.addresses = addresses
        self.url = url
        self.client = self.another()

    def another(self) -> HttpClient:
        """A client that shares what is known of the replicas."""
        return HttpClient(self.url, {}, self.addresses)

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        assert (host, port) == ("shop.internal", self.port)
        return self.known

    @asynccontextmanager
    async def running(
        self, *addresses: str, held: asyncio.Event | None = None
    ) -> AsyncIterator[None]:
        """Replicas that answer with their address, once `held` is set."""
        async with AsyncExitStack() as stack:
            for address in addresses:
                handler = self._named(address, held)
                await stack.enter_async_context(serving(handler, address, self.port))
            try:
                yield
            finally:
                self.client.close()

    def _named(self, address: str, held: asyncio.Event | None) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await ask(reader) is not None:
                if held is not None:
                    self.waiting += 1
                    await held.wait()
                writer.write(whole(address.encode()))
                await writer.drain()

        return handle

    async def asked(self) -> str:
        return (await (await self.client.request("GET", "/mcp", {})).read()).decode()


@pytest.fixture
def service() -> Iterator[Service]:
    with reserve() as port:
        yield Service(port, REPLICAS)


async def test_calls_go_to_all_replicas_in_turn(service: Service) -> None:
    async with service.running(*REPLICAS):
        answered = Counter([await service.asked() for _ in range(30)])
    assert answered == dict.fromkeys(REPLICAS, 10)


async def test_a_call_goes_where_the_least_is_under_way(service: Service) -> None:
    free = asyncio.Event()
    slow, *others = REPLICAS
    async with (
        asyncio.timeout(PATIENCE),
        service.running(*others),
        service.running(slow, held=free),
        asyncio.TaskGroup() as tasks,
    ):
        for _ in REPLICAS:  # each gets one, and one of them waits
            tasks.create_task(service.asked())
        while not service.waiting:  # noqa: ASYNC110  (a server says nothing before it answers)
            await asyncio.sleep(0.01)
        assert {await service.asked() for _ in range(10)} == set(others)
        free.set()


async def test_a_replica_that_is_gone_costs_nothing(service: Service) -> None:
    async with service.running(*REPLICAS[:2]):
        assert {await service.asked() for _ in range(10)} == set(REPLICAS[:2])


async def test_new_replicas_are_found_when_an_old_one_is_gone(service: Service) -> None:
    old, new, _ = REPLICAS
    service.known = [old]
    async with service.running(old):
        assert await service.asked() == old
    service.known = [new]
    async with asyncio.timeout(PATIENCE), service.running(new):
        with pytest.raises(Unavailable, match=r"cannot connect to shop\.internal"):
            await service.asked()
        assert await service.asked() == new


async def test_a_session_stays_where_it_was_begun(service: Service) -> None:
    async with service.running(*REPLICAS):
        first = await service.client.request("GET", "/mcp", {})
        home = (await first.read()).decode()
        service.client.stay_with(first)
        assert {await service.asked() for _ in range(10)} == {home}


async def test_sessions_are_spread_over_all_clients_and_are_no_calls(service: Service) -> None:
    async with service.running(*REPLICAS), AsyncExitStack() as stack:
        homes = Counter[str]()
        for _ in range(6):
            client = service.another()
            stack.callback(client.close)
            answer = await client.request("GET", "/mcp", {}, lasting=True)
            client.stay_with(answer)
            homes[(await answer.read()).decode()] += 1
        assert homes == dict.fromkeys(REPLICAS, 2)
        assert Counter([await service.asked() for _ in range(30)]) == dict.fromkeys(REPLICAS, 10)
        client.close()
        late = service.another()
        stack.callback(late.close)
        again = await late.request("GET", "/mcp", {}, lasting=True)
        assert again.address == answer.address, "where one has ended there is room"


async def test_what_went_wrong_is_no_load(service: Service) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ask(reader)
        writer.close()

    bad, good, _ = REPLICAS
    service.known = [bad]
    async with serving(hang_up, bad, service.port):
        for _ in range(3):
            with pytest.raises(Interrupted):
                await service.asked()
    service.known = [bad, good]
    service.addresses.doubt()
    async with service.running(bad, good):
        assert Counter([await service.asked() for _ in range(10)]) == {bad: 5, good: 5}


def test_half_done_calls_of_clients_that_never_came_back_are_forgotten() -> None:
    addresses = addresses_of("http://shop.internal/mcp")
    assert addresses is not None
    for number in range(MOST_HOMES + 1):
        addresses.remember(f"state {number}", ("h", number))
    assert addresses.home("state 0") is None
    assert addresses.home("state 1") == ("h", 1)
    assert addresses.home(["no", "text"]) is None


def test_equals_take_turns_and_the_idle_come_first() -> None:
    a, b, c = (("127.0.0.1", port) for port in (1, 2, 3))
    assert [order([a, b, c], {}, turn)[0] for turn in range(4)] == [a, b, c, a]
    assert order([a, b, c], {a: 1, c: 2}, 0) == [b, a, c]


@pytest.mark.parametrize(
    ("host", "may"),
    [("localhost", False), ("127.0.0.1", False), ("::1", False), ("tasks.shop_auth", True)],
)
def test_only_names_can_have_replicas(host: str, may: bool) -> None:
    assert may_have_replicas(host) is may


async def test_a_name_is_looked_up_in_one_family() -> None:
    assert await look_up("127.0.0.1", 80) == ["127.0.0.1"]
