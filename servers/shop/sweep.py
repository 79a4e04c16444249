"""The sweep: finishes what a crash left, again and again, and finds nothing where nothing broke."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from servers.shop import accounts, cancellation, checkout, clock, settlement
from servers.shop.errors import DatabaseTrouble
from servers.shop.marks import Mark

if TYPE_CHECKING:
    from servers.shop.connection import Job
    from servers.shop.store import Store, Table

logger = logging.getLogger(__name__)

BATCH = 200
EVERY_SECONDS = 5.0


def sweeping(stale_seconds: float, every_seconds: float = EVERY_SECONDS) -> Job:
    """A job that sweeps for ever."""
    return partial(_for_ever, stale=stale_seconds, every=every_seconds)


async def _for_ever(store: Store, *, stale: float, every: float) -> None:
    while True:
        try:
            await sweep(store, stale)
            await accounts.forget_expired(store)
        except DatabaseTrouble as error:
            logger.info("the sweep waits for the database", extra={"why": error})
        except Exception:
            logger.exception("a round of the sweep failed; the next one tries again")
        await anyio.sleep(every)


async def sweep(store: Store, stale: float) -> int:
    """One round: end the orders that stand still for `stale` seconds, then decide what marks are
    left; how many it found."""
    found = await _end_standing(store, clock.now() - int(stale * 1000))
    found += await _settle_marks(store, store.products)
    found += await _settle_marks(store, store.users)
    return found


async def _end_standing(store: Store, before: int) -> int:
    busy = await store.orders.find({"busy": True}, limit=BATCH)
    standing = [order for order in busy if order["touched"] <= before]
    for order in standing:
        if order["state"] == "pending":
            await checkout.cancel_pending(store, order, checkout.INTERRUPTED + ".")
        else:
            await cancellation.abandon(store, order)
    return len(standing)


async def _settle_marks(store: Store, table: Table) -> int:
    """Decide every mark; those of orders at work stay."""
    documents = await table.find({"marked": {"$gt": 0}}, limit=BATCH)
    orders: dict[str, Mapping[str, Any] | None] = {}
    for document in documents:
        for text in document["marks"]:
            mark = Mark.parse(text)
            if mark.kind != "deposit" and mark.owner not in orders:
                orders[mark.owner] = await store.orders.get(mark.owner)
            order = orders.get(mark.owner)
            if table is store.products:
                await settlement.settle_product(store, document["_id"], mark, order)
            else:
                await settlement.settle_balance(store, document["_id"], mark, order)
    return len(documents)
