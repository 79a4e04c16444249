"""Marks: what an order holds of a product or a balance, and what is owed to them. Pure.

A mark is put on a document in the same step that takes stock or money from it, and names the
attempt that did. What becomes of it depends on the order alone, so whoever finds a mark, and
whenever, comes to the same end; removing a mark and giving back is one step too, so it happens
once. An attempt whose writes got lost on the way is given up for a new one: what arrives of it
later is a mark of an attempt that the order does not name, and is undone.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Literal, cast

Kind = Literal["hold", "credit", "deposit"]


class Fate(Enum):
    """What has to be done with a mark."""

    KEEP = auto()
    """Its order is at work."""
    DROP = auto()
    """What was held is spent, or what would have been owed is not."""
    RETURN = auto()
    """What was held, or is owed, goes back."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One mark: `attempt` is a deposit's amount."""

    kind: Kind
    owner: str
    attempt: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.owner}/{self.attempt}"

    @classmethod
    def parse(cls, text: str) -> Mark:
        kind, owner, attempt = text.split("/")
        return cls(cast("Kind", kind), owner, attempt)  # we alone write them


def new_id(prefix: str) -> str:
    """An identifier that nobody guesses and that needs no quoting."""
    return f"{prefix}_{secrets.token_hex(10)}"


def order_id(buyer: str, key: str) -> str:
    """The order of that buyer and idempotency key, always the same."""
    return "order_" + hashlib.sha256(f"{buyer}\0{key}".encode()).hexdigest()[:20]


def hold_of(order: Mapping[str, Any]) -> Mark:
    """The mark of what the order's present attempt has taken."""
    return Mark("hold", order["_id"], order["attempt"])


def credit_of(order: Mapping[str, Any]) -> Mark:
    """The mark of what the order's present cancellation gives back."""
    return Mark("credit", order["_id"], order["refund"] or "none")


def fate(mark: Mark, order: Mapping[str, Any] | None) -> Fate:
    """What becomes of a mark, whose order is as it is now."""
    if mark.kind == "deposit":
        return Fate.RETURN
    return _fate_of_hold(mark, order) if mark.kind == "hold" else _fate_of_credit(mark, order)


def _fate_of_hold(mark: Mark, order: Mapping[str, Any] | None) -> Fate:
    if order is None or mark.attempt != order["attempt"]:
        return Fate.RETURN
    if order["state"] == "pending":
        return Fate.KEEP
    # An order that was placed and then cancelled gives back by its credits.
    return Fate.RETURN if order["placed"] is None else Fate.DROP


def _fate_of_credit(mark: Mark, order: Mapping[str, Any] | None) -> Fate:
    if order is None or mark.attempt != order["refund"]:
        return Fate.DROP
    return Fate.RETURN if order["state"] == "cancelled" else Fate.KEEP


def put(mark: Mark, taking: Mapping[str, int] | None = None) -> dict[str, Any]:
    """The update that adds a mark, and takes what it stands for."""
    less = {field: -amount for field, amount in (taking or {}).items()}
    return {"$inc": {"marked": 1, **less}, "$push": {"marks": str(mark)}}


def removal(mark: Mark, giving: Mapping[str, int] | None = None) -> dict[str, Any]:
    """The update that removes a mark, and gives back what it stands for."""
    return {"$inc": {"marked": -1, **(giving or {})}, "$pull": {"marks": str(mark)}}
