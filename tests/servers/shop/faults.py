"""A store whose writes get lost, come late, or are the last thing that their process does."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from servers.shop.errors import Unsure
from servers.shop.store import Document, Store, Table, Where

Fault = Literal["dies before", "dies after", "lost before", "lost after", "late"]
Write = Callable[[], Awaitable[bool]]


class Died(Exception):
    """The process that made the call was killed here."""


@dataclass
class Fuse:
    """Burns at the `at`th write of one call; `late` writes are done by who calls `arrive`."""

    at: int = -1
    fault: Fault = "dies before"
    late: list[Write] = field(default_factory=list)

    async def write(self, do: Write) -> bool:
        self.at -= 1
        if self.at != -1:
            return await do()
        if self.fault == "dies before":
            raise Died
        if self.fault == "late":
            self.late.append(do)
        elif self.fault != "lost before":
            await do()
        if self.fault == "dies after":
            raise Died
        raise Unsure("lost")


class FaultyTable(Table):
    """A real table behind a fuse."""

    fuse: Fuse

    async def insert(self, document: Document, *, durable: bool = False) -> bool:
        return await self.fuse.write(lambda: Table.insert(self, document, durable=durable))

    async def change(
        self, where: Where, update: Mapping[str, Any], *, durable: bool = False
    ) -> bool:
        return await self.fuse.write(lambda: Table.change(self, where, update, durable=durable))


class WatchedTable(Table):
    """A real table, on which something else happens after the first read of one document."""

    meanwhile: Callable[[], Awaitable[object]] | None

    async def get(self, key: str) -> Document | None:
        found = await Table.get(self, key)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile()
        return found


def overtaken(store: Store, name: str, meanwhile: Callable[[], Awaitable[object]]) -> Store:
    """The same database, for a caller whom somebody overtakes between read and write."""
    twin = copy.copy(store)
    table = WatchedTable.__new__(WatchedTable)
    table.__dict__.update(vars(getattr(store, name)))
    table.meanwhile = meanwhile
    setattr(twin, name, table)
    return twin


def faulty(store: Store, fuse: Fuse) -> Store:
    """The same database, as a caller with that fuse has it."""
    twin = copy.copy(store)
    for name in ("users", "products", "carts", "orders", "ledger"):
        table = FaultyTable.__new__(FaultyTable)
        table.__dict__.update(vars(getattr(store, name)))
        table.fuse = fuse
        setattr(twin, name, table)
    return twin
