"""Placing an order: all of it or nothing, once, whatever dies on the way.

    draw up (pending) -> claim the cart -> hold stock, line by line -> hold the money
        -> placed, in one step -> marks become sales          (or cancelled, and marks give back)

Only the step to `placed` makes an order; whoever finds one that stands still may cancel it, or go
on with it under a new attempt. docs/shop.md says why that is safe.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import anyio

from servers.shop import carts, clock, marks, orders, products, settlement
from servers.shop.carts import Cart
from servers.shop.errors import DatabaseTrouble, Refused, Unsure
from servers.shop.money import to_text

if TYPE_CHECKING:
    from servers.shop.store import Document, Store

logger = logging.getLogger(__name__)

STALE_SECONDS = 30.0
"""How long an order may stand still before somebody else takes it up: longer than a call may take,
so that none is taken from who is slowly at work on it. No safety rests on it."""

ATTEMPTS = 3
COMMITS = 5
WAITS = 60
PAUSE = 0.05

CHANGED = "the cart changed meanwhile, so nothing was ordered: look at it with view_cart, then"
AGAIN = "call place_order again"
INTERRUPTED = "it was interrupted before it was placed, and nothing was charged"
UNDERWAY = f"the order is still being placed: {AGAIN} with the same idempotency_key in a moment"
UNKNOWN = (
    "the shop's database went away while the order was being placed. See list_orders, or "
    f"{AGAIN} with the same idempotency_key: it is never placed twice."
)


async def place(store: Store, buyer: str, key: str | None, currency: str) -> Document:
    """The placed order of the buyer's cart; with a key, the one of that key if there is one."""
    order_id = marks.order_id(buyer, key) if key else marks.new_id("order")
    if key:
        earlier = await store.orders.get(order_id)
        if earlier is not None:
            return await _resume(store, earlier, currency)
    order = await _draw_up(store, buyer, order_id, currency)
    try:
        if not await store.orders.insert(order):
            return await _resume(store, await orders.own(store, buyer, order_id), currency)
        return await go_on(store, order, currency)
    except Unsure as error:
        raise Unsure(UNKNOWN) from error


async def _draw_up(store: Store, buyer: str, order_id: str, currency: str) -> Document:
    cart = await carts.current(store, buyer)
    if cart.checkout is not None:
        raise Refused(carts.BUSY)
    if not cart.lines:
        raise Refused("the cart is empty: add_to_cart first; list_orders shows earlier orders")
    found = await products.by_id(store, (line.product_id for line in cart.lines))
    objections = object_to(cart, found, currency)
    if objections:
        raise Refused("nothing was ordered. " + " ".join(objections))
    return orders.draw_up(cart, found, order_id)


def object_to(cart: Cart, found: Mapping[str, Mapping[str, Any]], currency: str) -> list[str]:
    """What the buyer has to be told before this cart can be ordered."""
    return [text for line in cart.lines if (text := _objection(line, found, currency))]


def _objection(line: carts.Line, found: Mapping[str, Mapping[str, Any]], currency: str) -> str:
    product = found.get(line.product_id)
    if product is None or product["state"] != products.ON_SALE:
        return f"{line.product_id} is not sold any more: delete_from_cart it."
    name = f"{product['name']} ({line.product_id})"
    if product["price"] != line.price:
        before, now = to_text(line.price, currency), to_text(product["price"], currency)
        return (
            f"The price of {name} was {before} when it was put in the cart, and is {now} now: "
            "delete_from_cart and add_to_cart it again to accept that."
        )
    if product["stock"] < line.quantity:
        return (
            f"Only {product['stock']} of {name} are left, and the cart has {line.quantity}: "
            "delete_from_cart it, then add_to_cart what there is."
        )
    return ""


# On, to one end or the other


async def go_on(store: Store, order: Document, currency: str) -> Document:
    """Bring a pending order to its end, under further attempts where writes got lost."""
    for _ in range(ATTEMPTS):
        try:
            shortage = await _reserve(store, order, currency)
        except Unsure:
            order = await _new_attempt(store, order)
            continue
        if not shortage:
            return await _commit(store, order)
        if await cancel_pending(store, order, shortage):
            raise Refused(f"nothing was ordered. {shortage}")
        moved_on = await orders.own(store, order["buyer"], order["_id"])
        return await _resume(store, moved_on, currency)
    raise Unsure(UNKNOWN)


async def _reserve(store: Store, order: Mapping[str, Any], currency: str) -> str | None:
    """Hold the cart, the stock and the money; what is short, if something is."""
    if not await _has_cart(store, order):
        return f"{CHANGED} {AGAIN}."
    # Each of these is sent once: an attempt whose answer is lost is given up, not repeated.
    hold = marks.hold_of(order)
    for line in order["lines"]:
        enough = {
            "_id": line["product_id"],
            "state": products.ON_SALE,
            "price": line["price"],
            "stock": {"$gte": line["quantity"]},
        }
        taking = marks.put(hold, {"stock": line["quantity"]})
        if not await store.products.change(enough, taking):
            return await _why_not(store, line, currency)
    rich = {"_id": order["buyer"], "balance": {"$gte": order["total"]}}
    if not await store.users.change(rich, marks.put(hold, {"balance": order["total"]})):
        return (
            f"The balance is too low for {to_text(order['total'], currency)}: see check_balance, "
            f"then add_balance, or order less."
        )
    return None


async def _why_not(store: Store, line: Mapping[str, Any], currency: str) -> str:
    """What changed of a product since the order was drawn up, a moment ago."""
    wanted = carts.Line(line["product_id"], line["quantity"], line["price"])
    found = await products.by_id(store, [wanted.product_id])
    reason = _objection(wanted, found, currency)
    return reason or f"{line['name']} ({wanted.product_id}) was sold out for a moment: {AGAIN}."


async def _has_cart(store: Store, order: Mapping[str, Any]) -> bool:
    if await carts.claim(store, order["buyer"], order["cart_version"], order["_id"]):
        return True
    held = await store.carts.get(order["buyer"])
    return held is not None and held["checkout"] == order["_id"]


async def _commit(store: Store, order: Document) -> Document:
    """The one step that makes it an order. Said again until it is known: it is the same step."""
    placed = {**order, "state": "placed", "placed": clock.now(), "busy": False}
    present = {"_id": order["_id"], "state": "pending", "attempt": order["attempt"]}
    update = {"$set": {key: placed[key] for key in ("state", "placed", "busy")}}
    for _ in range(COMMITS):
        try:
            if not await store.orders.change(present, update, durable=True):
                placed = await orders.own(store, order["buyer"], order["_id"])
            break
        except Unsure:
            await anyio.sleep(PAUSE)
    else:
        raise Unsure(UNKNOWN)
    if placed["state"] == "pending":
        raise Refused(UNDERWAY)
    await settle_soon(store, placed)
    if placed["placed"] is None:
        raise Refused(f"nothing was ordered: {placed['reason']}")
    return placed


async def cancel_pending(store: Store, order: Mapping[str, Any], reason: str) -> bool:
    """Give an order up that was not placed, and what it holds back; false if it moved on."""
    gone = {**order, "state": "cancelled", "reason": reason, "busy": False}
    present = {"_id": order["_id"], "state": "pending", "attempt": order["attempt"]}
    update = {"$set": {key: gone[key] for key in ("state", "reason", "busy")}}
    if not await store.orders.change(present, update, durable=True):
        return False
    await settle_soon(store, gone)
    return True


async def settle_soon(store: Store, order: Mapping[str, Any]) -> None:
    """Settle it now, or leave it to the sweep: the order itself is decided."""
    try:
        await settlement.settle(store, order)
    except DatabaseTrouble as error:
        logger.warning("an order is settled later", extra={"order": order["_id"], "why": error})


# An order that was begun before


async def _resume(store: Store, order: Document, currency: str) -> Document:
    """What became of the order; one that stands still is taken up."""
    for _ in range(WAITS):
        if order["state"] == "placed":
            return order
        if order["state"] == "cancelled":
            raise Refused(
                f"the order of this idempotency_key ({order['_id']}) was not placed, or was "
                f"cancelled: {order['reason']} Use a new key to order again."
            )
        if clock.now() - order["touched"] > STALE_SECONDS * 1000:
            return await go_on(store, await _new_attempt(store, order), currency)
        await anyio.sleep(PAUSE)
        order = await orders.own(store, order["buyer"], order["_id"])
    raise Refused(UNDERWAY)


async def _new_attempt(store: Store, order: Mapping[str, Any]) -> Document:
    """The pending order under a new attempt: what the old one took, or still takes, is undone."""
    fresh = {**order, "attempt": marks.new_id("a"), "touched": clock.now()}
    present = {"_id": order["_id"], "state": "pending", "attempt": order["attempt"]}
    update = {"$set": {"attempt": fresh["attempt"], "touched": fresh["touched"]}}
    if await store.orders.change(present, update):
        for line in order["lines"]:
            await settlement.settle_product(store, line["product_id"], marks.hold_of(order), fresh)
        await settlement.settle_balance(store, order["buyer"], marks.hold_of(order), fresh)
        return fresh
    raise Refused(UNDERWAY)
