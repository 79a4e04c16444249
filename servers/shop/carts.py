"""Carts: one document a buyer, changed whole by compare and set; the arithmetic is pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import anyio

from servers.shop.errors import Refused

if TYPE_CHECKING:
    from servers.shop.store import Document, Store

MOST_LINES = 50
MOST_QUANTITY = 1000
TRIES = 40
PAUSE = 0.05

BUSY = "an order is being placed from this cart: ask again in a few seconds, or see list_orders"


@dataclass(frozen=True, slots=True)
class Line:
    """So many of a product, at the price in minor units that the buyer was told."""

    product_id: str
    quantity: int
    price: int


@dataclass(frozen=True, slots=True)
class Cart:
    """A buyer's cart; `checkout` is the order that is being made from it."""

    buyer: str
    version: int = 0
    lines: tuple[Line, ...] = ()
    checkout: str | None = None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Cart:
        lines = tuple(Line(**line) for line in document["lines"])
        return cls(document["_id"], document["version"], lines, document["checkout"])


Edit = Callable[[tuple[Line, ...]], tuple[Line, ...]]


def added(lines: tuple[Line, ...], new: Sequence[Line]) -> tuple[Line, ...]:
    """With more of some products; the price is the new one, for the buyer is told it now."""
    merged = {line.product_id: line for line in lines}
    for line in new:
        before = merged.get(line.product_id)
        quantity = line.quantity + (before.quantity if before else 0)
        if quantity > MOST_QUANTITY:
            raise Refused(f"a cart holds at most {MOST_QUANTITY} of one product: see view_cart")
        merged[line.product_id] = replace(line, quantity=quantity)
    if len(merged) > MOST_LINES:
        raise Refused(f"a cart holds at most {MOST_LINES} different products: see view_cart")
    return tuple(merged.values())


def without(lines: tuple[Line, ...], product_id: str) -> tuple[Line, ...]:
    """Without a product, whether it was there or not."""
    return tuple(line for line in lines if line.product_id != product_id)


async def current(store: Store, buyer: str) -> Cart:
    """The cart, from which what an order took is gone."""
    while True:
        document = await store.carts.get(buyer)
        if document is None:
            return Cart(buyer)
        cart = Cart.of(document)
        if cart.checkout is None:
            return cart
        order = await store.orders.get(cart.checkout)
        if order is not None and order["state"] == "pending":
            return cart
        await release(store, cart.buyer, cart.checkout, order)


async def release(store: Store, buyer: str, order_id: str, order: Mapping[str, Any] | None) -> None:
    """Give the cart back to its buyer: empty where the order was placed."""
    update: dict[str, Any] = {"checkout": None}
    if order is not None and order["placed"] is not None:
        update["lines"] = []
    where = {"_id": buyer, "checkout": order_id}
    await store.carts.change(where, {"$set": update, "$inc": {"version": 1}})


async def edit(store: Store, buyer: str, change: Edit) -> Cart:
    """Change the lines; waits a little while for an order that is being placed from them."""
    for _ in range(TRIES):
        cart = await current(store, buyer)
        if cart.checkout is None:
            changed = replace(cart, version=cart.version + 1, lines=change(cart.lines))
            if changed.lines == cart.lines:
                return cart
            if await _swap(store, cart, changed):
                return changed
        else:
            await anyio.sleep(PAUSE)
    raise Refused(BUSY)


async def _swap(store: Store, old: Cart, new: Cart) -> bool:
    lines = [asdict(line) for line in new.lines]
    if old.version == 0:
        fresh: Document = {"_id": new.buyer, "version": 1, "lines": lines, "checkout": None}
        return await store.carts.insert(fresh)
    where = {"_id": old.buyer, "version": old.version, "checkout": None}
    return await store.carts.change(where, {"$set": {"lines": lines, "version": new.version}})


async def claim(store: Store, buyer: str, version: int, order_id: str) -> bool:
    """Keep the cart as it is for an order; false where it has changed, or another order has it."""
    where = {"_id": buyer, "version": version, "checkout": None}
    return await store.carts.change(where, {"$set": {"checkout": order_id}})
