"""Orders: how one is drawn up from a cart, and how they are looked at.

    pending ──> placed ──> cancelled
       └──────────────────────^

`attempt` names the reservation that counts, `refund` the cancellation that counts, `busy` says that
somebody is at work on it since `touched`. The lines of an order never change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from servers.shop import clock, marks
from servers.shop.carts import Cart
from servers.shop.errors import Refused

if TYPE_CHECKING:
    from servers.shop.store import Document, Store

SHOWN = 50
SALES_SHOWN = 200


def draw_up(cart: Cart, products: Mapping[str, Mapping[str, Any]], key: str) -> Document:
    """A pending order of everything in the cart, whose lines `objections` found right."""
    lines = [
        {
            "product_id": line.product_id,
            "name": products[line.product_id]["name"],
            "quantity": line.quantity,
            "price": line.price,
            "seller": products[line.product_id]["seller"],
        }
        for line in cart.lines
    ]
    moment = clock.now()
    return {
        "_id": key,
        "buyer": cart.buyer,
        "state": "pending",
        "attempt": marks.new_id("a"),
        "refund": None,
        "busy": True,
        "touched": moment,
        "created": moment,
        "placed": None,
        "reason": None,
        "total": total(lines),
        "lines": lines,
        "sellers": sorted({line["seller"] for line in lines}),
        "cart_version": cart.version,
    }


def total(lines: Sequence[Mapping[str, Any]]) -> int:
    """What the lines cost together."""
    return sum(line["quantity"] * line["price"] for line in lines)


async def of_buyer(store: Store, buyer: str) -> list[Document]:
    """The buyer's latest orders, the newest first."""
    return await store.orders.find({"buyer": buyer}, (("created", -1),), limit=SHOWN)


async def own(store: Store, buyer: str, key: str) -> Document:
    """An order of that buyer."""
    order = await store.orders.get(key)
    if order is None or order["buyer"] != buyer:
        raise Refused(f"you have no order {key}: list_orders shows yours")
    return order


async def sales(store: Store, seller: str) -> list[Document]:
    """The latest placed orders that have products of the seller, the newest first."""
    where = {"sellers": seller, "state": "placed"}
    return await store.orders.find(where, (("created", -1),), limit=SALES_SHOWN)
