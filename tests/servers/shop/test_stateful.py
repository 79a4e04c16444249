"""Any interleaving of calls, with writes that get lost or late and callers that die: the sums hold.

The database is the real wire server; the model is a few dictionaries of what was acknowledged.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from servers.shop import accounts, cancellation, carts, checkout, deposits, marks, products
from servers.shop.accounts import Registration
from servers.shop.errors import ShopError
from servers.shop.products import NewProduct
from servers.shop.store import Document, Store, open_store
from servers.shop.sweep import sweep
from tests.servers.shop.faults import Died, Fault, Fuse, faulty
from tests.shop import PATIENCE, Database

BUYERS = 3
STOCKS = (6, 9, 40)
PRICES = (100, 150, 7)
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
"""No shrinking: what other calls did in the meantime is not repeatable."""
EXAMPLES = int(os.environ.get("SHOP_EXAMPLES", "8"))

Call = Callable[["Model", Store], Coroutine[Any, Any, None]]


@dataclass
class Model:
    """What was acknowledged, and what may or may not have happened."""

    seller: str = ""
    buyers: list[str] = field(default_factory=list)
    products: list[str] = field(default_factory=list)
    supplied: dict[str, int] = field(default_factory=dict)
    deposited: dict[str, int] = field(default_factory=dict)
    perhaps: dict[str, int] = field(default_factory=dict)
    placed: dict[str, str] = field(default_factory=dict)
    cancelling: set[str] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)


async def fill_cart(buyer: int, product: int, quantity: int, model: Model, store: Store) -> None:
    key = model.products[product]
    price = (await products.on_sale(store, key))["price"]
    line = carts.Line(key, quantity, price)
    await carts.edit(store, model.buyers[buyer], lambda lines: carts.added(lines, [line]))


async def take_out(buyer: int, product: int, model: Model, store: Store) -> None:
    key = model.products[product]
    await carts.edit(store, model.buyers[buyer], lambda lines: carts.without(lines, key))


async def deposit(buyer: int, amount: int, model: Model, store: Store) -> None:
    who = model.buyers[buyer]
    model.perhaps[who] += amount
    await deposits.deposit(store, who, amount)
    model.deposited[who] += amount


async def place(buyer: int, key: str | None, model: Model, store: Store) -> None:
    who = model.buyers[buyer]
    order = await checkout.place(store, who, key, "EUR")
    assert order["placed"] is not None
    model.placed[order["_id"]] = who


async def cancel(which: int, model: Model, store: Store) -> None:
    if not model.placed:
        return
    key = sorted(model.placed)[which % len(model.placed)]
    model.cancelling.add(key)
    order = await cancellation.cancel(store, model.placed[key], key)
    assert order["state"] == "cancelled"
    model.cancelled.add(key)


async def reprice(product: int, price: int, model: Model, store: Store) -> None:
    await products.change(store, model.seller, model.products[product], "price", price)


async def take_off_sale(product: int, model: Model, store: Store) -> None:
    await products.delete(store, model.seller, model.products[product])


async def sweep_now(_: Model, store: Store) -> None:
    await sweep(store, 0)


async def _called(wish: Any, buyer: int, model: Model, store: Store) -> None:
    await wish(buyer, model=model, store=store)


buyer_numbers = st.integers(0, BUYERS - 1)
product_numbers = st.integers(0, len(STOCKS) - 1)
keys = st.none() | st.sampled_from(["a", "b", "c"])
calls: st.SearchStrategy[Call] = st.one_of(
    st.builds(partial, st.just(fill_cart), buyer_numbers, product_numbers, st.integers(1, 4)),
    st.builds(partial, st.just(place), buyer_numbers, keys),
    st.builds(partial, st.just(place), buyer_numbers, keys),
    st.builds(partial, st.just(cancel), st.integers(0, 9)),
    st.builds(partial, st.just(deposit), buyer_numbers, st.integers(1, 900)),
    st.builds(partial, st.just(take_out), buyer_numbers, product_numbers),
    st.builds(partial, st.just(reprice), product_numbers, st.integers(1, 300)),
    st.just(sweep_now),
)
faults: st.SearchStrategy[tuple[int, Fault]] = st.tuples(
    st.integers(0, 9),
    st.sampled_from(["dies before", "dies after", "lost before", "lost after", "late"]),
)
maybe_faults = st.one_of(st.none(), faults)


class ShopMachine(RuleBasedStateMachine):
    """The real shop beside the model."""

    portal: BlockingPortal
    store: Store

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.late: list[Any] = []

    def run(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        return self.portal.call(work)

    @initialize()
    def open_shop(self) -> None:
        self.run(self._open_shop)

    async def _open_shop(self) -> None:
        model = self.model
        people = [await self._user("seller"), *[await self._user("buyer") for _ in range(BUYERS)]]
        model.seller, *model.buyers = people
        new = [
            NewProduct(f"Thing {i}", price, stock)
            for i, (price, stock) in enumerate(zip(PRICES, STOCKS, strict=True))
        ]
        added = await products.add(self.store, model.seller, new)
        model.products = [product["_id"] for product in added]
        model.supplied = dict(zip(model.products, STOCKS, strict=True))
        model.deposited = dict.fromkeys(model.buyers, 0)
        model.perhaps = dict.fromkeys(model.buyers, 0)
        for number in range(BUYERS):
            await deposit(number, 3000, model, self.store)
            await fill_cart(number, number % len(STOCKS), 2, model, self.store)

    async def _user(self, role: accounts.Role) -> str:
        email = f"{marks.new_id('e')}@example.com"
        user = accounts.document(Registration("Ada", email, "", role), "no password")
        assert await self.store.users.insert(user)
        return str(user["_id"])

    @rule(work=st.lists(st.tuples(calls, maybe_faults), min_size=1, max_size=5))
    def at_once(self, work: list[tuple[Call, tuple[int, Fault] | None]]) -> None:
        """Several calls of any kind, some of which meet a fault."""
        self.side_by_side(work)

    def side_by_side(self, work: list[tuple[Call, tuple[int, Fault] | None]]) -> None:
        async def all_of_them() -> None:
            async with anyio.create_task_group() as tasks:
                for call, fault in work:
                    tasks.start_soon(self._attempt, call, fault)

        self.run(all_of_them)

    async def _attempt(self, call: Call, fault: tuple[int, Fault] | None) -> None:
        fuse = Fuse(*fault, late=self.late) if fault else Fuse()
        with suppress(ShopError, Died):
            await call(self.model, faulty(self.store, fuse))

    @rule(product=product_numbers, quantity=st.integers(1, 4), data=st.data())
    def everybody_wants_the_same(self, product: int, quantity: int, data: st.DataObject) -> None:
        """All order one product at once, each by two calls of one key; stock is scarce."""
        wish = partial(fill_cart, product=product, quantity=quantity)
        for buyer in range(BUYERS):
            self.run(partial(self._attempt, partial(_called, wish, buyer), None))
        key = marks.new_id("key")
        calls = [partial(place, buyer, key) for buyer in range(BUYERS) for _ in range(2)]
        work: list[Any] = [(call, data.draw(maybe_faults)) for call in calls]
        if data.draw(st.booleans()):
            work.insert(data.draw(st.integers(0, 3)), (sweep_now, None))
        self.side_by_side(work)

    @rule()
    def late_writes_arrive(self) -> None:
        async def arrive() -> None:
            while self.late:
                await self.late.pop(0)()

        self.run(arrive)

    @rule(product=product_numbers)
    def a_product_is_deleted(self, product: int) -> None:
        self.run(partial(self._attempt, partial(take_off_sale, product), None))

    @rule()
    def the_sums_hold(self) -> None:
        self.run(self._check)

    def teardown(self) -> None:
        if self.model.buyers:
            self.late_writes_arrive()
            self.run(self._check)

    async def _check(self) -> None:
        # Twice: settling what the first round ended is the second one's.
        await sweep(self.store, 0)
        await sweep(self.store, 0)
        model = self.model
        orders = await self.store.orders.find({"buyer": {"$in": model.buyers}}, limit=500)
        assert {order["state"] for order in orders} <= {"placed", "cancelled"}
        await self._check_orders({order["_id"]: order for order in orders})
        sold = [order for order in orders if order["state"] == "placed"]
        await self._check_stock(sold)
        for buyer in model.buyers:
            await self._check_money(buyer, sold)

    async def _check_orders(self, orders: dict[str, Document]) -> None:
        for key, buyer in self.model.placed.items():
            assert orders[key]["buyer"] == buyer
            if key in self.model.cancelled:
                assert orders[key]["state"] == "cancelled"
            elif key not in self.model.cancelling:
                assert orders[key]["state"] == "placed"

    async def _check_stock(self, sold: list[Document]) -> None:
        found = await products.by_id(self.store, self.model.products)
        for key, supplied in self.model.supplied.items():
            lines = [line for order in sold for line in order["lines"]]
            gone = sum(line["quantity"] for line in lines if line["product_id"] == key)
            assert (found[key]["stock"] + gone, found[key]["marks"]) == (supplied, [])
            assert found[key]["stock"] >= 0
            assert found[key]["marked"] == 0

    async def _check_money(self, buyer: str, sold: list[Document]) -> None:
        user = await self.store.users.get(buyer)
        assert user
        assert (user["marks"], user["marked"]) == ([], 0)
        entries = await self.store.ledger.find({"account": buyer}, limit=5000)
        assert user["balance"] == sum(entry["amount"] for entry in entries) >= 0
        paid = sum(order["total"] for order in sold if order["buyer"] == buyer)
        into = sum(entry["amount"] for entry in entries if entry["reason"] == "deposit")
        assert user["balance"] + paid == into
        assert self.model.deposited[buyer] <= into <= self.model.perhaps[buyer]


@pytest.fixture
def machine(shared_database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Any]]:
    # An order is taken up at once: nothing may rest on how long somebody waits.
    monkeypatch.setattr(checkout, "STALE_SECONDS", -1.0)
    monkeypatch.setattr(checkout, "PAUSE", 0.001)
    monkeypatch.setattr(carts, "PAUSE", 0.001)
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal())
        opened = open_store(shared_database.uri, marks.new_id("test"), PATIENCE)
        store = stack.enter_context(portal.wrap_async_context_manager(opened))
        yield type("Machine", (ShopMachine,), {"portal": portal, "store": store})


@pytest.mark.timeout(1200)
def test_no_interleaving_and_no_fault_breaks_the_sums(machine: type[Any]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=PHASES,
        ),
    )
