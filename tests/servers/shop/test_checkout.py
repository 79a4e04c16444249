"""Ordering, cancelling, and what a buyer is told in between."""

from __future__ import annotations

from dataclasses import dataclass

import anyio
import pytest

from servers.shop import (
    accounts,
    cancellation,
    carts,
    checkout,
    deposits,
    marks,
    orders,
    products,
    tools,
)
from servers.shop.accounts import Registration
from servers.shop.carts import Cart, Line
from servers.shop.errors import Refused
from servers.shop.products import NewProduct
from servers.shop.store import Document, Store
from servers.shop.sweep import sweep
from tests.servers.shop.faults import Died, Fuse, faulty

pytestmark = pytest.mark.anyio


@dataclass
class Scene:
    """A shop with tea and cups, and a buyer who has both in the cart."""

    store: Store
    seller: str
    buyer: str
    tea: str
    cup: str

    async def place(self, key: str | None = None) -> Document:
        return await checkout.place(self.store, self.buyer, key, "EUR")

    async def add(self, product: str, quantity: int = 1, price: int = 450) -> Cart:
        line = Line(product, quantity, price)
        return await carts.edit(self.store, self.buyer, lambda lines: carts.added(lines, [line]))

    async def stock(self, product: str) -> int:
        return int((await products.by_id(self.store, [product]))[product]["stock"])

    async def balance(self) -> int:
        return await deposits.balance(self.store, self.buyer)


@pytest.fixture
async def scene(store: Store, monkeypatch: pytest.MonkeyPatch) -> Scene:
    # Who is slowly at work on an order is not given up here.
    monkeypatch.setattr(checkout, "STALE_SECONDS", 3600.0)
    people = []
    for role in ("seller", "buyer"):
        new = Registration("Ada", f"{role}@example.com", "", "buyer")
        user = accounts.document(new, "none")
        await store.users.insert(user)
        people.append(user["_id"])
    new_products = [NewProduct("Tea", 450, 10), NewProduct("Cup", 1200, 2)]
    added = await products.add(store, people[0], new_products)
    scene = Scene(store, *people, *(product["_id"] for product in added))
    await deposits.deposit(store, scene.buyer, 10_000)
    await scene.add(scene.tea, 2)
    await scene.add(scene.cup, 1, 1200)
    return scene


async def test_a_changed_price_is_told_and_nothing_is_charged(scene: Scene) -> None:
    await products.change(scene.store, scene.seller, scene.tea, "price", 500)
    with pytest.raises(Refused, match=r"was 4\.50 EUR .* and is 5\.00 EUR now: delete_from_cart"):
        await scene.place()
    assert (await scene.balance(), await scene.stock(scene.cup)) == (10_000, 2)
    remove = lambda lines: carts.without(lines, scene.tea)  # noqa: E731
    await carts.edit(scene.store, scene.buyer, remove)
    await scene.add(scene.tea, 2, 500)
    assert (await scene.place())["total"] == 2200


async def test_what_can_not_be_had_is_all_told_at_once(scene: Scene) -> None:
    await products.delete(scene.store, scene.seller, scene.tea)
    await products.change(scene.store, scene.seller, scene.cup, "quantity", 0)
    with pytest.raises(Refused, match=r"not sold any more.* Only 0 of Cup .* the cart has 1"):
        await scene.place()


async def test_a_balance_that_is_short_leaves_everything_as_it_was(scene: Scene) -> None:
    await scene.add(scene.tea, 8, 450)
    with pytest.raises(Refused, match="Only 10 of Tea"):
        await scene.add(scene.tea, 9, 450) and await scene.place()
    await carts.edit(scene.store, scene.buyer, lambda _: (Line(scene.tea, 10, 450),))
    await scene.store.users.change({"_id": scene.buyer}, {"$set": {"balance": 4499}})
    with pytest.raises(Refused, match=r"too low for 45\.00 EUR"):
        await scene.place()
    assert (await scene.balance(), await scene.stock(scene.tea)) == (4499, 10)
    cart = await carts.current(scene.store, scene.buyer)
    assert [line.quantity for line in cart.lines] == [10]


async def test_a_cart_that_changes_meanwhile_is_not_ordered(scene: Scene) -> None:
    cart = await carts.current(scene.store, scene.buyer)
    found = await products.by_id(scene.store, [scene.tea, scene.cup])
    drawn_up = orders.draw_up(cart, found, marks.new_id("order"))
    await scene.store.orders.insert(drawn_up)
    await scene.add(scene.tea)
    with pytest.raises(Refused, match="the cart changed meanwhile"):
        await checkout.go_on(scene.store, drawn_up, "EUR")
    assert (await scene.balance(), await scene.stock(scene.tea)) == (10_000, 10)


async def test_the_same_key_orders_once_also_at_once(scene: Scene) -> None:
    placed = []

    async def place() -> None:
        placed.append((await scene.place("same"))["_id"])

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(place)
    assert len(placed) == 4
    assert len(set(placed)) == 1
    assert await scene.balance() == 10_000 - 2100
    assert (await scene.place("same"))["_id"] == placed[0]


async def test_a_cart_is_ordered_once_without_a_key_too(scene: Scene) -> None:
    placed, refused = [], []

    async def place() -> None:
        try:
            placed.append((await scene.place())["_id"])
        except Refused as error:
            refused.append(str(error))

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(place)
    assert (len(placed), len(refused)) == (1, 3)
    assert await scene.balance() == 10_000 - 2100


async def test_keys_of_two_buyers_are_two_keys(scene: Scene) -> None:
    assert marks.order_id("a", "k") != marks.order_id("b", "k")
    assert marks.order_id("a", "k") == marks.order_id("a", "k")


@pytest.mark.parametrize("at", range(10))
async def test_whoever_dies_while_ordering_is_succeeded(
    scene: Scene, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkout, "STALE_SECONDS", -1.0)
    with pytest.raises(Died):
        await checkout.place(faulty(scene.store, Fuse(at, "dies after")), scene.buyer, "k", "EUR")
    order = await scene.place("k")
    await sweep(scene.store, 0)
    assert order["state"] == "placed"
    assert (await scene.balance(), await scene.stock(scene.tea)) == (10_000 - 2100, 8)
    assert await scene.stock(scene.cup) == 1
    assert (await carts.current(scene.store, scene.buyer)).lines == ()


@pytest.mark.parametrize("at", range(8))
async def test_whoever_dies_while_cancelling_is_succeeded(scene: Scene, at: int) -> None:
    order = await scene.place()
    store = faulty(scene.store, Fuse(at, "dies after"))
    with pytest.raises(Died):
        await cancellation.cancel(store, scene.buyer, order["_id"])
    await sweep(scene.store, 0)
    again = await cancellation.cancel(scene.store, scene.buyer, order["_id"])
    await sweep(scene.store, 0)
    assert again["state"] == "cancelled"
    assert (await scene.balance(), await scene.stock(scene.tea)) == (10_000, 10)


async def test_others_see_neither_order_nor_product(scene: Scene) -> None:
    order = await scene.place()
    with pytest.raises(Refused, match="you have no order"):
        await orders.own(scene.store, scene.seller, order["_id"])
    with pytest.raises(Refused, match="you have no order"):
        await cancellation.cancel(scene.store, scene.seller, order["_id"])
    for work in (
        products.change(scene.store, scene.buyer, scene.tea, "price", 1),
        products.delete(scene.store, scene.buyer, scene.tea),
    ):
        with pytest.raises(Refused, match="you have no product"):
            await work
    assert await orders.sales(scene.store, scene.buyer) == []


def test_an_order_stands_still_only_when_the_call_that_made_it_is_over() -> None:
    assert checkout.STALE_SECONDS > tools.DEADLINE


async def test_a_sweep_leaves_what_is_at_work_alone(scene: Scene) -> None:
    store = faulty(scene.store, Fuse(3, "dies after"))
    with pytest.raises(Died):
        await checkout.place(store, scene.buyer, "k", "EUR")
    await sweep(scene.store, 3600)
    assert await scene.stock(scene.tea) == 8
    await sweep(scene.store, 0)
    assert await scene.stock(scene.tea) == 10
    with pytest.raises(Refused, match="interrupted"):
        await scene.place("k")
