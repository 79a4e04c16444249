"""What the shop needs of a database, exactly; run on the embedded one, and on MONGODB_URI's."""

from __future__ import annotations

import anyio
import pytest

from servers.shop.store import Document, Store

pytestmark = pytest.mark.anyio


def doc(key: str, **fields: object) -> Document:
    return {"_id": key, "marks": [], "marked": 0, **fields}


async def test_an_id_is_taken_once_and_the_first_stays(store: Store) -> None:
    assert await store.ledger.insert(doc("a", amount=1), durable=True)
    assert not await store.ledger.insert(doc("a", amount=2))
    assert await store.ledger.get("a") == doc("a", amount=1)
    assert await store.ledger.get("b") is None


async def test_a_unique_field_is_taken_once_by_whoever_is_first(store: Store) -> None:
    taken = []

    async def register(number: int) -> None:
        if await store.users.insert(doc(f"u{number}", email="a@example.com", name="A")):
            taken.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(register, number)
    assert len(taken) == 1
    found = await store.users.first({"email": "a@example.com"})
    assert found
    assert found["_id"] == f"u{taken[0]}"


async def test_many_are_inserted_and_those_that_are_there_stay(store: Store) -> None:
    await store.products.insert(doc("p1", price=1))
    assert await store.products.insert_all([doc(f"p{i}", price=i * 10) for i in range(4)]) == 3
    found = await store.products.find({}, (("price", 1),), limit=10)
    assert [(p["_id"], p["price"]) for p in found] == [
        ("p0", 0), ("p1", 1), ("p2", 20), ("p3", 30),
    ]  # fmt: skip


async def test_a_change_asks_and_changes_in_one_step(store: Store) -> None:
    await store.products.insert(doc("p", stock=5, price=100, state="on_sale"))
    enough = {"_id": "p", "state": "on_sale", "price": 100, "stock": {"$gte": 3}}
    take = {"$inc": {"stock": -3, "marked": 1}, "$push": {"marks": "hold/o/1"}}
    assert await store.products.change(enough, take)
    assert not await store.products.change(enough, take)
    assert await store.products.get("p") == {
        "_id": "p", "stock": 2, "price": 100, "state": "on_sale", "marked": 1,
        "marks": ["hold/o/1"],
    }  # fmt: skip
    give = {"$inc": {"stock": 3, "marked": -1}, "$pull": {"marks": "hold/o/1"}}
    assert await store.products.change({"_id": "p", "marks": "hold/o/1"}, give, durable=True)
    assert not await store.products.change({"_id": "p", "marks": "hold/o/1"}, give)
    assert await store.products.get("p") == doc("p", stock=5, price=100, state="on_sale")


@pytest.mark.parametrize(
    ("marks", "meets"),
    [([], False), (["a"], True), (["b"], False), (["b", "a"], True), (["aa"], False)],
)
async def test_a_mark_is_found_whole_among_others(
    store: Store, marks: list[str], meets: bool
) -> None:
    await store.users.insert({**doc("u"), "marks": marks})
    update = {"$set": {"met": True}}
    assert await store.users.change({"_id": "u", "marks": "a"}, update) is meets


async def test_many_at_once_take_what_there_is_and_no_more(store: Store) -> None:
    await store.products.insert(doc("p", stock=10))
    got = []

    async def take(number: int) -> None:
        where = {"_id": "p", "stock": {"$gte": 3}}
        update = {"$inc": {"stock": -3}, "$push": {"marks": str(number)}}
        if await store.products.change(where, update):
            got.append(str(number))

    async with anyio.create_task_group() as tasks:
        for number in range(12):
            tasks.start_soon(take, number)
    found = await store.products.get("p")
    assert found
    assert found["stock"] == 1
    assert sorted(found["marks"]) == sorted(got)
    assert len(got) == 3


async def test_nothing_is_compared_with_null_by_accident(store: Store) -> None:
    await store.orders.insert(doc("o", refund=None, state="placed"))
    unclaimed = {"_id": "o", "refund": None}
    assert await store.orders.change(unclaimed, {"$set": {"refund": "r1"}})
    assert not await store.orders.change(unclaimed, {"$set": {"refund": "r2"}})
    assert await store.orders.change({"_id": "o", "refund": "r1"}, {"$set": {"refund": None}})
    assert await store.orders.change(unclaimed, {"$set": {"refund": "r3"}})
    gone = [doc("p1", shelf=None), doc("p2", shelf="a p2")]
    await store.products.insert_all(gone)
    found = await store.products.find({"shelf": {"$gt": ""}}, limit=9)
    assert [p["_id"] for p in found] == ["p2"]


async def test_whole_lists_and_nested_values_are_set(store: Store) -> None:
    lines = [{"product_id": "p", "quantity": 2, "price": 5}]
    await store.carts.insert({"_id": "b", "version": 1, "lines": [], "checkout": None})
    first = {"_id": "b", "version": 1, "checkout": None}
    assert await store.carts.change(first, {"$set": {"lines": lines}, "$inc": {"version": 1}})
    assert not await store.carts.change(first, {"$set": {"lines": []}})
    assert await store.carts.get("b") == {
        "_id": "b", "version": 2, "lines": lines, "checkout": None,
    }  # fmt: skip


async def test_found_by_list_order_and_range(store: Store) -> None:
    for i, words in enumerate((["tea", "green"], ["tea", "black"], ["cup", "black"])):
        await store.products.insert(
            doc(f"p{i}", words=words, state="on_sale", price=i, created=i, shelf=f"{9 - i}")
        )
    products = store.products

    async def found(where: Document, *order: tuple[str, int], skip: int = 0) -> list[str]:
        rows = await products.find(where, order, skip=skip, limit=2)  # type: ignore[arg-type]
        return [row["_id"] for row in rows]

    assert sorted(await found({"words": {"$all": ["tea"]}})) == ["p0", "p1"]
    assert await found({"words": {"$all": ["tea", "black"]}, "state": "on_sale"}) == ["p1"]
    assert await found({"words": {"$all": ["te"]}}) == []
    assert await found({"state": "on_sale"}, ("state", 1), ("price", 1)) == ["p0", "p1"]
    assert await found({"state": "on_sale"}, ("state", -1), ("price", -1)) == ["p2", "p1"]
    assert await found({"state": "on_sale"}, ("state", -1), ("created", -1), skip=2) == ["p0"]
    assert await found({"shelf": {"$gt": ""}}, ("shelf", 1), skip=1) == ["p1", "p0"]
    assert sorted(await found({"_id": {"$in": ["p2", "p0", "x"]}})) == ["p0", "p2"]


async def test_orders_are_found_by_a_seller_in_their_list(store: Store) -> None:
    for i, sellers in enumerate((["s1", "s2"], ["s2"], ["s1"])):
        order = doc(f"o{i}", sellers=sellers, state="placed", created=i, busy=i == 1, buyer="b")
        await store.orders.insert(order)
    where = {"sellers": "s1", "state": "placed"}
    found = await store.orders.find(where, (("created", -1),), limit=9)
    assert [order["_id"] for order in found] == ["o2", "o0"]
    assert [o["_id"] for o in await store.orders.find({"busy": True}, limit=9)] == ["o1"]
    newest = await store.orders.find({"buyer": "b"}, (("buyer", -1), ("created", -1)), limit=1)
    assert [order["_id"] for order in newest] == ["o2"]


async def test_marked_documents_are_found_by_their_count(store: Store) -> None:
    await store.products.insert_all([doc("p1"), {**doc("p2"), "marks": ["m"], "marked": 1}])
    found = await store.products.find({"marked": {"$gt": 0}}, limit=9)
    assert [product["_id"] for product in found] == ["p2"]


async def test_a_counter_counts_everybody(store: Store) -> None:
    counts = []

    async def count() -> None:
        counts.append(await store.attempts.count_up("k", 1, 99))

    async with anyio.create_task_group() as tasks:
        for _ in range(6):
            tasks.start_soon(count)
    assert sorted(counts) == [1, 2, 3, 4, 5, 6]
    assert await store.attempts.count_up("k", -1, 7) == 5
    assert await store.attempts.get("k") == {"_id": "k", "count": 5, "expires": 7}


async def test_what_is_over_is_removed_and_nothing_else(store: Store) -> None:
    for i in range(4):
        await store.sessions.insert(doc(f"s{i}", user="u" if i < 3 else "v", expires=i))
    assert await store.sessions.remove({"expires": {"$lte": 0}}) == 1
    assert await store.sessions.remove({"user": "u", "_id": {"$ne": "s1"}}) == 1
    left = await store.sessions.find({}, limit=9)
    assert sorted(session["_id"] for session in left) == ["s1", "s3"]


async def test_numbers_stay_exact(store: Store) -> None:
    large = 2**53 + 1
    await store.users.insert(doc("u", balance=large))
    assert await store.users.change({"_id": "u", "balance": large}, {"$inc": {"balance": 10**13}})
    found = await store.users.get("u")
    assert found
    assert found["balance"] == large + 10**13
    assert isinstance(found["balance"], int)


async def test_text_that_looks_like_something_else_stays_text(store: Store) -> None:
    texts = ["$where", "a.b", "'; DROP TABLE x;--", '{"$gt": ""}', "ß", "😀", "%_", ".*"]
    for i, text in enumerate(texts):
        await store.products.insert(doc(f"t{i}", name=text, words=[text]))
    for i, text in enumerate(texts):
        for where in ({"name": text}, {"words": {"$all": [text]}}):
            found = await store.products.find(where, limit=99)
            assert [product["name"] for product in found] == [text], i


async def test_preparing_again_changes_nothing(store: Store) -> None:
    await store.users.insert(doc("u", email="a@example.com"))
    await store.prepare()
    await store.ping()
    assert not await store.users.insert(doc("v", email="a@example.com"))
