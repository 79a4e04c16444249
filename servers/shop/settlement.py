"""What follows from an order's state: marks go, held things come back, the ledger is written.

Every step may be done twice, by anybody, at any time; `sweep` does what a crash left undone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from servers.shop import carts, clock
from servers.shop.marks import Fate, Mark, credit_of, fate, hold_of, removal

if TYPE_CHECKING:
    from servers.shop.store import Store

Reason = Literal["deposit", "order", "refund"]


async def settle(store: Store, order: Mapping[str, Any]) -> None:
    """Draw the consequences of an order that is placed or cancelled."""
    kinds = [hold_of(order), *([credit_of(order)] if order["refund"] else [])]
    for mark in kinds:
        for line in order["lines"]:
            await settle_product(store, line["product_id"], mark, order)
        await settle_balance(store, order["buyer"], mark, order)
    await carts.release(store, order["buyer"], order["_id"], order)


async def settle_product(
    store: Store, product_id: str, mark: Mark, order: Mapping[str, Any] | None
) -> None:
    """Do with a product's mark what its order says."""
    end = fate(mark, order)
    if end is Fate.KEEP:
        return
    giving = None
    if end is Fate.RETURN and order is not None:
        giving = {"stock": quantity_of(order, product_id)}
    await store.products.change({"_id": product_id, "marks": str(mark)}, removal(mark, giving))


async def settle_balance(
    store: Store, user: str, mark: Mark, order: Mapping[str, Any] | None
) -> None:
    """Do with a balance's mark what its order says; the ledger comes first."""
    end = fate(mark, order)
    if end is Fate.KEEP:
        return
    amount = int(mark.attempt) if mark.kind == "deposit" else int(order["total"]) if order else 0
    await _record(store, user, mark, end, amount)
    giving = {"balance": amount} if end is Fate.RETURN else None
    await store.users.change({"_id": user, "marks": str(mark)}, removal(mark, giving))


async def _record(store: Store, user: str, mark: Mark, end: Fate, amount: int) -> None:
    if mark.kind == "deposit":
        await record(store, user, "deposit", mark.owner, amount)
    elif mark.kind == "hold" and end is Fate.DROP:
        await record(store, user, "order", mark.owner, -amount)
    elif mark.kind == "credit" and end is Fate.RETURN:
        await record(store, user, "refund", mark.owner, amount)


async def record(store: Store, account: str, reason: Reason, source: str, amount: int) -> None:
    """Add an entry to the ledger; what was recorded before stays as it is."""
    entry = {
        "_id": f"{reason}/{source}",
        "account": account,
        "reason": reason,
        "source": source,
        "amount": amount,
        "at": clock.now(),
    }
    await store.ledger.insert(entry)


async def drop_credit(store: Store, order: Mapping[str, Any]) -> None:
    """Remove the marks of a cancellation that was given up."""
    given_up = {**order, "refund": None}
    mark = credit_of(order)
    for line in order["lines"]:
        await settle_product(store, line["product_id"], mark, given_up)
    await settle_balance(store, order["buyer"], mark, given_up)


def quantity_of(order: Mapping[str, Any], product_id: str) -> int:
    """How many of a product the order has."""
    return sum(line["quantity"] for line in order["lines"] if line["product_id"] == product_id)
