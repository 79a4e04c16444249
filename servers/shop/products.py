"""Products: what sellers offer and buyers look at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from servers.shop import clock, marks, text
from servers.shop.errors import Refused

if TYPE_CHECKING:
    from servers.shop.store import Document, Order, Store

Sort = Literal["name", "price", "-price", "newest"]
Field = Literal["name", "price", "quantity", "description"]

PAGE = 20
TRIES = 20
ON_SALE = "on_sale"
DELETED = "deleted"

_ORDERS: Mapping[Sort, Order] = {
    "name": (("shelf", 1),),
    "price": (("state", 1), ("price", 1)),
    "-price": (("state", -1), ("price", -1)),
    "newest": (("state", -1), ("created", -1)),
}


@dataclass(frozen=True, slots=True)
class NewProduct:
    """What a seller says of a product; the price is in minor units."""

    name: str
    price: int
    quantity: int
    description: str = ""


def shelf(name: str, key: str) -> str:
    """Where a product on sale stands in the order of names; the same place is never taken twice."""
    return f"{name.casefold()} {key}"


def _texts(name: str, description: str, key: str) -> dict[str, Any]:
    return {
        "name": name,
        "description": description,
        "shelf": shelf(name, key),
        "words": text.words(f"{name} {description}"),
    }


def document(seller: str, new: NewProduct) -> Document:
    """A product as the database has it."""
    key = marks.new_id("product")
    return {
        "_id": key,
        "seller": seller,
        **_texts(new.name, new.description, key),
        "price": new.price,
        "stock": new.quantity,
        "state": ON_SALE,
        "created": clock.now(),
        "marks": [],
        "marked": 0,
    }


async def add(store: Store, seller: str, new: Sequence[NewProduct]) -> list[Document]:
    """Put products on sale."""
    documents = [document(seller, product) for product in new]
    if len(documents) == 1:
        await store.products.insert(documents[0], durable=True)
    else:
        await store.products.insert_all(documents)
    return documents


async def change(store: Store, seller: str, key: str, field: Field, value: Any) -> Document:
    """Set one field of an own product; the product after that."""
    for _ in range(TRIES):
        product = await own(store, seller, key)
        update, basis = _edit(product, field, value)
        as_read = {"_id": key, "seller": seller, "state": ON_SALE, **basis}
        if await store.products.change(as_read, {"$set": update}, durable=True):
            return {**product, **update}
    raise Refused(f"product {key} is being changed by somebody else: try again in a moment")


def _edit(product: Document, field: Field, value: Any) -> tuple[Document, Document]:
    """What to set for a field's new value, and what that was made from: `words` need both texts."""
    if field in ("price", "quantity"):
        return {"stock" if field == "quantity" else field: value}, {}
    basis = {text: product[text] for text in ("name", "description")}
    texts = {**basis, field: value}
    return _texts(texts["name"], texts["description"], product["_id"]), basis


async def delete(store: Store, seller: str, key: str) -> Document:
    """Take an own product off sale for good; orders of it stay as they are."""
    product = await _any_own(store, seller, key)
    # It leaves the shelf, and stays in the database for orders that give its stock back.
    gone: Document = {"state": DELETED, "shelf": None, "words": []}
    await store.products.change({"_id": key, "seller": seller}, {"$set": gone}, durable=True)
    return {**product, **gone}


async def own(store: Store, seller: str, key: str) -> Document:
    """A seller's product that is on sale."""
    product = await _any_own(store, seller, key)
    if product["state"] != ON_SALE:
        raise Refused(f"product {key} was deleted: add it anew with add_product")
    return product


async def _any_own(store: Store, seller: str, key: str) -> Document:
    product = await store.products.get(key)
    if product is None or product["seller"] != seller:
        raise _not_own(key)
    return product


def _not_own(key: str) -> Refused:
    return Refused(f"you have no product {key}: view_seller_products lists yours")


async def of_seller(store: Store, seller: str, limit: int) -> list[Document]:
    """A seller's products that are on sale, by name."""
    found = await store.products.find({"seller": seller, "state": ON_SALE}, limit=limit)
    return sorted(found, key=lambda product: str(product["shelf"]))


async def on_sale(store: Store, key: str) -> Document:
    """A product that can be bought, or is sold out."""
    product = await store.products.get(key)
    if product is None or product["state"] != ON_SALE:
        raise not_on_sale(key)
    return product


def not_on_sale(key: str) -> Refused:
    """What who asks for such a product is told."""
    return Refused(f"there is no product {key}: view_all_products lists what there is")


async def by_id(store: Store, keys: Iterable[str]) -> dict[str, Document]:
    """Those of the products that exist, deleted ones too."""
    wanted = list(keys)
    found = await store.products.find({"_id": {"$in": wanted}}, limit=max(1, len(wanted)))
    return {product["_id"]: product for product in found}


async def page(
    store: Store, query: str | None, sort: Sort, number: int
) -> tuple[list[Document], bool]:
    """A page of products that have every word of the query, and whether there are more."""
    where: dict[str, Any] = {"state": ON_SALE}
    wanted = text.words(query or "")[: text.MOST_WORDS]
    if wanted:
        where["words"] = {"$all": wanted}
    elif query and query.strip():
        return [], False
    elif sort == "name":
        where = {"shelf": {"$gt": ""}}
    start = (number - 1) * PAGE
    found = await store.products.find(where, _ORDERS[sort], skip=start, limit=PAGE + 1)
    return found[:PAGE], len(found) > PAGE
