"""Cancelling an order: stock and money go back, once.

A credit is marked on every product and on the balance, which changes nothing yet; one step makes
the order `cancelled`; then each mark becomes stock or money as it is removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import anyio

from servers.shop import checkout, clock, marks, orders, settlement
from servers.shop.errors import Refused, Unsure

if TYPE_CHECKING:
    from servers.shop.store import Document, Store

BY_BUYER = "cancelled by the buyer."
TRIES = 60


async def cancel(store: Store, buyer: str, order_id: str) -> Document:
    """The cancelled order; one that was cancelled before is fine."""
    for _ in range(TRIES):
        order = await orders.own(store, buyer, order_id)
        if order["state"] == "cancelled":
            return order
        if order["state"] == "pending":
            await checkout.cancel_pending(store, order, BY_BUYER)
        elif is_free(order):
            done = await _give_back(store, order)
            if done is not None:
                return done
        await anyio.sleep(checkout.PAUSE)
    raise Refused(f"order {order_id} is being worked on: try again in a moment")


def is_free(order: Mapping[str, Any]) -> bool:
    """Whether nobody is cancelling it, or who was has stopped."""
    standing = clock.now() - int(order["touched"])
    return not order["busy"] or standing > checkout.STALE_SECONDS * 1000


async def _give_back(store: Store, order: Mapping[str, Any]) -> Document | None:
    """Cancel a placed order; None where somebody else works on it."""
    begun = {**order, "refund": marks.new_id("r"), "busy": True, "touched": clock.now()}
    as_read = {"_id": order["_id"], "state": "placed", "refund": order["refund"]}
    update = {"$set": {key: begun[key] for key in ("refund", "busy", "touched")}}
    if not await store.orders.change(as_read, update):
        return None
    credit = marks.credit_of(begun)
    for line in order["lines"]:
        await store.products.change({"_id": line["product_id"]}, marks.put(credit))
    await store.users.change({"_id": order["buyer"]}, marks.put(credit))
    return await _commit(store, begun)


async def _commit(store: Store, order: Document) -> Document | None:
    gone = {**order, "state": "cancelled", "reason": BY_BUYER, "busy": False}
    present = {"_id": order["_id"], "state": "placed", "refund": order["refund"]}
    update = {"$set": {key: gone[key] for key in ("state", "reason", "busy")}}
    for _ in range(checkout.COMMITS):
        try:
            if not await store.orders.change(present, update, durable=True):
                return None  # ours, said twice, or somebody else's: the caller looks again
            break
        except Unsure:
            await anyio.sleep(checkout.PAUSE)
    else:
        raise Unsure("it is not known whether the order was cancelled: see view_order")
    await checkout.settle_soon(store, gone)
    return gone


async def abandon(store: Store, order: Mapping[str, Any]) -> None:
    """Leave a placed order as it is, whose cancellation stands still."""
    as_read = {"_id": order["_id"], "state": "placed", "refund": order["refund"]}
    update = {"$set": {"refund": None, "busy": False}}
    if await store.orders.change(as_read, update):
        await settlement.drop_credit(store, order)
