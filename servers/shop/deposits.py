"""Money that a buyer puts in, and the balance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from servers.shop import marks, settlement
from servers.shop.errors import DatabaseTrouble, Refused
from servers.shop.marks import Mark

if TYPE_CHECKING:
    from servers.shop.store import Store

MOST = 10**13
"""No balance grows beyond this, in minor units: sums stay exact in every client."""

KEPT = "the amount is kept safe and will be in the balance soon: do not add it again"


async def deposit(store: Store, buyer: str, amount: int) -> int:
    """Add to the balance; the balance after that. From the mark on it is the buyer's money."""
    mark = Mark("deposit", marks.new_id("deposit"), str(amount))
    room = {"_id": buyer, "balance": {"$lte": MOST - amount}}
    if not await store.users.change(room, marks.put(mark), durable=True):
        raise Refused("no balance may grow that large: see check_balance, and add less")
    try:
        await settlement.settle_balance(store, buyer, mark, None)
        return await balance(store, buyer)
    except DatabaseTrouble as error:
        raise DatabaseTrouble(KEPT) from error


async def balance(store: Store, buyer: str) -> int:
    """What the buyer can spend, in minor units."""
    user = await store.users.get(buyer)
    if user is None:
        raise Refused("there is no such account any more")
    return int(user["balance"])
