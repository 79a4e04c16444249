"""The shop's tables on a MongoDB, or what speaks its protocol: the only code that knows pymongo.

Only what `Table` has is used, on one document at a time: no transactions, no server-side joins, no
positional operators, and no `$ne` on a list, which the embedded database answers wrongly.
`tests/servers/shop/test_contract.py` holds a database to exactly these.

Importing pymongo takes 0.3 s, so a server imports this module when it already serves.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Literal

import anyio
from pymongo import AsyncMongoClient, ReturnDocument, WriteConcern
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    DuplicateKeyError,
    InvalidURI,
    NotPrimaryError,
    PyMongoError,
    ServerSelectionTimeoutError,
)

from servers.shop.errors import Away, DatabaseTrouble, Unsure

Document = dict[str, Any]
Where = Mapping[str, Any]
Order = Sequence[tuple[str, Literal[1, -1]]]

ANSWER_SECONDS = 5.0
"""How long the database may take to be found, to let us in, or to answer."""
GOODBYE_SECONDS = 1.0
CLOSING_SECONDS = 10.0
POOL = 32

AWAY = "the shop's database can't be reached; nothing was changed. Try again in a minute."
UNSURE = (
    "the shop's database went away in the middle of a change, so it is not known whether it was "
    "made. Look before you try again."
)

_NEVER_BEGUN = frozenset({10058, 10107, 13435, 13436})
"""MongoDB's codes for not primary; not those of members that step down or end (91, 189, 11602)."""

# The embedded database looks for an equal value only in an index of that field alone, and in an
# index of a list it finds nothing at all: `sellers` and `words` must have none.
INDEXES: tuple[tuple[str, Order, bool], ...] = (
    ("users", (("email", 1),), True),
    ("users", (("name", 1),), False),
    ("users", (("marked", 1),), False),
    ("sessions", (("user", 1),), False),
    ("sessions", (("expires", 1),), False),
    ("attempts", (("expires", 1),), False),
    ("products", (("shelf", 1),), False),
    ("products", (("state", 1), ("price", 1)), False),
    ("products", (("state", 1), ("created", 1)), False),
    ("products", (("seller", 1),), False),
    ("products", (("marked", 1),), False),
    ("orders", (("buyer", 1),), False),
    ("orders", (("busy", 1),), False),
    ("ledger", (("account", 1),), False),
)


class Table:
    """One collection, and every operation that the shop does on one."""

    def __init__(self, collection: AsyncCollection[Document], write: int | str) -> None:
        self._plain = collection.with_options(write_concern=WriteConcern(w=write))
        self._durable = collection.with_options(write_concern=WriteConcern(w=write, j=True))

    async def insert(self, document: Document, *, durable: bool = False) -> bool:
        """Whether it is new; False where its `_id`, or another unique field, is taken."""
        with _writing:
            try:
                await self._at(durable).insert_one(document)
            except DuplicateKeyError:
                return False
        return True

    async def insert_all(self, documents: Sequence[Document]) -> int:
        """How many were inserted; those whose `_id` is taken are left as they are."""
        with _writing:
            try:
                done = await self._durable.insert_many(documents, ordered=False)
            except BulkWriteError as error:
                details = error.details or {}
                if any(e.get("code") != 11000 for e in details.get("writeErrors", ())):
                    raise
                return int(details.get("nInserted", 0))
        return len(done.inserted_ids)

    async def get(self, key: str) -> Document | None:
        """The document of that `_id`."""
        with _reading:
            return await self._plain.find_one({"_id": key})

    async def first(self, where: Where) -> Document | None:
        """Any document that is so."""
        with _reading:
            return await self._plain.find_one(where)

    async def find(
        self, where: Where, order: Order = (), *, skip: int = 0, limit: int
    ) -> list[Document]:
        """At most `limit` documents that are so.

        Whole ones: to leave out fields takes the embedded database longer.
        """
        with _reading:
            cursor = self._plain.find(where, skip=skip, limit=limit)
            if order:
                cursor = cursor.sort(list(order))
            return await cursor.to_list()

    async def change(
        self, where: Where, update: Mapping[str, Any], *, durable: bool = False
    ) -> bool:
        """Change one document that is so, in one step; whether there was one."""
        with _writing:
            done = await self._at(durable).update_one(where, update)
        return done.matched_count == 1

    async def count_up(self, key: str, by: int, expires: int) -> int:
        """Add to the counter of that `_id`, which starts with zero; its value after that.

        Not by `$setOnInsert`, which the embedded database ignores here.
        """
        with _writing:
            found: Document = await self._plain.find_one_and_update(  # type: ignore[assignment]
                {"_id": key},
                {"$inc": {"count": by}, "$set": {"expires": expires}},
                upsert=True,
                return_document=ReturnDocument.AFTER,
            )
        return int(found["count"])

    async def remove(self, where: Where) -> int:
        """Remove all documents that are so; how many."""
        with _writing:
            done = await self._plain.delete_many(where)
        return done.deleted_count

    def _at(self, durable: bool) -> AsyncCollection[Document]:
        return self._durable if durable else self._plain


class Store:
    """The shop's tables. A durable write is on the disk, with all before it, when it returns."""

    def __init__(self, client: AsyncMongoClient[Document], database: str, write: int | str) -> None:
        self._client = client
        self._database = client[database]
        self.users = self._table("users", write)
        self.sessions = self._table("sessions", write)
        self.attempts = self._table("attempts", write)
        self.products = self._table("products", write)
        self.carts = self._table("carts", write)
        self.orders = self._table("orders", write)
        self.ledger = self._table("ledger", write)

    def _table(self, name: str, write: int | str) -> Table:
        return Table(self._database[name], write)

    async def prepare(self) -> None:
        """Make the indexes that are missing."""
        with _writing:
            for table, keys, unique in INDEXES:
                await self._database[table].create_index(list(keys), unique=unique)

    async def drop(self) -> None:
        """Remove the whole shop."""
        with _writing:
            await self._client.drop_database(self._database)

    async def ping(self) -> None:
        """Return if the database answers."""
        with _reading:
            await self._client.admin.command("ping")


@asynccontextmanager
async def open_store(
    uri: str, database: str, answer_seconds: float = ANSWER_SECONDS
) -> AsyncIterator[Store]:
    """A store that is ready for use; Away where the database does not answer."""
    async with _closing(_client(uri, answer_seconds)) as client:
        with _reading:
            hello = await client.admin.command("hello")
        # A write that a replica set's majority has not seen can be rolled back under the next one.
        replicated = "setName" in hello or hello.get("msg") == "isdbgrid"
        store = Store(client, database, "majority" if replicated else 1)
        await store.prepare()
        yield store


def _client(uri: str, answer_seconds: float) -> AsyncMongoClient[Document]:
    milliseconds = int(answer_seconds * 1000)
    with _refusing():
        return AsyncMongoClient(
            uri,
            retryWrites=False,  # every write is sent once: who sends it knows what its loss means
            serverSelectionTimeoutMS=milliseconds,
            # Also of the driver's own look at the database, which cuts off calls where it fails.
            connectTimeoutMS=milliseconds,
            socketTimeoutMS=milliseconds,
            maxPoolSize=POOL,
            appname="mcpcp-shop",
        )


@asynccontextmanager
async def _closing(
    client: AsyncMongoClient[Document],
) -> AsyncIterator[AsyncMongoClient[Document]]:
    """The client, closed in the end, also by a task that is cancelled."""
    try:
        yield client
    finally:
        # A database that hangs is not told that we go: closing again says nothing any more.
        for seconds in (GOODBYE_SECONDS, CLOSING_SECONDS):
            with anyio.move_on_after(seconds, shield=True) as closing:
                await client.close()
            if not closing.cancelled_caught:
                break


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except (InvalidURI, ConfigurationError, ValueError) as error:
        raise Away(f"MONGODB_URI can't be used: {error}") from error


def of_write(error: PyMongoError) -> DatabaseTrouble:
    """Not sent, or refused as a whole: nothing was changed. Everything else: nobody knows."""
    if isinstance(error, ServerSelectionTimeoutError) or _is_refused(error):
        return Away(AWAY)
    if _is_disk_full(error):
        return Away("the shop's database has no room left on its disk; nothing was changed.")
    return Unsure(UNSURE)


def _is_refused(error: PyMongoError) -> bool:
    """By a member that was no primary when asked; one that stepped down since may have written."""
    said = error.details if isinstance(error, NotPrimaryError) else None
    return isinstance(said, Mapping) and said.get("code") in _NEVER_BEGUN


def _is_disk_full(error: PyMongoError) -> bool:
    return "disk is full" in str(error) or getattr(error, "code", None) == 14031


class _Translated:
    """Around work with the driver, whose errors become ours; nothing that has to be made anew."""

    def __init__(self, translate: Callable[[PyMongoError], DatabaseTrouble]) -> None:
        self._translate = translate

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        if isinstance(error, PyMongoError):
            raise self._translate(error) from error


_reading = _Translated(lambda _: Away(AWAY))
_writing = _Translated(of_write)
