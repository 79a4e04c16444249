"""Changing products, while others do."""

from __future__ import annotations

from functools import partial

import pytest

from servers.shop import products
from servers.shop.errors import Refused
from servers.shop.products import NewProduct
from servers.shop.store import Store
from tests.servers.shop.faults import overtaken

pytestmark = pytest.mark.anyio

SELLER = "user_seller"


async def tea(store: Store) -> str:
    (added,) = await products.add(store, SELLER, [NewProduct("Tea", 450, 10, 'green "leaves"\n')])
    return str(added["_id"])


async def found(store: Store, query: str) -> int:
    return len((await products.page(store, query, "name", 1))[0])


async def test_name_and_description_that_are_changed_at_once_both_stay(store: Store) -> None:
    key = await tea(store)
    describe = partial(products.change, store, SELLER, key, "description", "black, smoked")
    late = overtaken(store, "products", describe)
    changed = await products.change(late, SELLER, key, "name", "Lapsang")
    stored = await products.on_sale(store, key)
    assert changed == stored
    assert (stored["name"], stored["description"]) == ("Lapsang", "black, smoked")
    assert await found(store, "lapsang smoked") == 1
    assert await found(store, "green") == await found(store, "tea") == 0


async def test_a_sale_does_not_stand_in_the_way_of_a_new_name_or_price(store: Store) -> None:
    key = await tea(store)
    sell = partial(store.products.change, {"_id": key}, {"$inc": {"stock": -3}})
    await products.change(overtaken(store, "products", sell), SELLER, key, "name", "Sencha")
    await products.change(overtaken(store, "products", sell), SELLER, key, "price", 500)
    stored = await products.on_sale(store, key)
    assert (stored["name"], stored["price"], stored["stock"]) == ("Sencha", 500, 4)


async def test_a_product_that_is_deleted_meanwhile_is_not_changed(store: Store) -> None:
    key = await tea(store)
    remove = partial(products.delete, store, SELLER, key)
    with pytest.raises(Refused, match="was deleted"):
        await products.change(overtaken(store, "products", remove), SELLER, key, "price", 1)
