"""Chaos: buyers order scarce products through the gateway while servers and database are killed.

Afterwards nothing may be wrong by a single cup or cent, and what was acknowledged must be found.
Run short by tests/e2e/test_shop_chaos.py, and for as long as you like by benchmarks/shop_chaos.py.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import anyio

from servers.shop.store import Document, Store, open_store
from servers.shop.sweep import sweep
from tests.fleet import CallFailed, Fleet
from tests.shop import PATIENCE, Customer, add_shop, customer

WORKERS = 8
VICTIMS = ("shop_buyer", "shop_db", "shop_buyer", "shop_db", "shop_auth")
STOCK = 25
PRICES = ("1.50", "20", "0.07")
DEPOSIT = "5000"
RETRIES = 40
KILLS, PLACED = 2, 5
"""Chaos goes on until there were as many: it would prove nothing."""
IN_VAIN = 3
"""Kills in a row after which nobody was told anything: then the next one waits until somebody is,
since a machine can be so slow that nothing comes up in the meantime."""
STALE_SECONDS = "4"
"""Far longer than an order takes, and short enough for what is interrupted to be ended."""


@dataclass
class Report:
    """What the buyers were told, and what was killed."""

    placed: dict[str, str] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    cancelling: set[str] = field(default_factory=set)
    refused: Counter[str] = field(default_factory=Counter)
    interrupted: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def says_something(self) -> bool:
        return sum(self.kills.values()) >= KILLS and len(self.placed) >= PLACED

    @property
    def told(self) -> int:
        """Outcomes of which buyers were told."""
        return len(self.placed) + len(self.cancelled) + self.refused.total()

    def __str__(self) -> str:
        kills = ", ".join(f"{name} {count}" for name, count in sorted(self.kills.items()))
        return (
            f"{self.seconds:.0f} s, kills: {kills}; orders acknowledged {len(self.placed)}, "
            f"cancellations acknowledged {len(self.cancelled)}, calls interrupted "
            f"{self.interrupted}, refusals {sum(self.refused.values())}; orders in the end: "
            + ", ".join(f"{state} {count}" for state, count in sorted(self.states.items()))
        )


class Buyer:
    """One worker: fills a cart, orders with a key, repeats what got lost, cancels now and then."""

    def __init__(self, who: Customer, products: list[str], report: Report, seed: int) -> None:
        self._who = who
        self._products = products
        self._report = report
        self._random = random.Random(seed)  # noqa: S311  no secret
        self._mine: list[str] = []

    def work(self, stop: threading.Event) -> None:
        """Until told to stop."""
        while not stop.is_set():
            with contextlib.suppress(CallFailed):
                self._fill_cart()
            self._order()
            if self._random.random() < 0.4:
                self._cancel()

    def _fill_cart(self) -> None:
        for key in self._random.sample(self._products, self._random.randint(1, 2)):
            self._who.buy("add_to_cart", product_id=key, quantity=self._random.randint(1, 2))

    def _empty_cart(self) -> None:
        for key in self._products:
            self._who.buy("delete_from_cart", product_id=key)

    def _order(self) -> None:
        key = uuid.uuid4().hex
        for _ in range(RETRIES):
            order = self._said("place_order", idempotency_key=key)
            if order is not None:
                break
        if isinstance(order, str):
            with contextlib.suppress(CallFailed):
                self._empty_cart()
        if isinstance(order, dict):
            assert order["state"] in ("placed", "cancelled")
            self._report.placed[order["order_id"]] = self._who.session
            self._mine.append(order["order_id"])

    def _cancel(self) -> None:
        if not self._mine:
            return
        key = self._mine.pop(self._random.randrange(len(self._mine)))
        self._report.cancelling.add(key)
        for _ in range(RETRIES):
            order = self._said("cancel_order", order_id=key)
            if isinstance(order, dict):
                assert order["state"] == "cancelled"
                self._report.cancelled.add(key)
            if order is not None:
                return

    def _said(self, tool: str, **arguments: Any) -> Any:
        """The order; the refusal as text; None where the call got lost and is to be repeated."""
        try:
            return self._who.buy(tool, **arguments)
        except CallFailed as failure:
            text = str(failure)
        if "nothing was ordered" in text or "is empty" in text or "was not placed" in text:
            self._report.refused[text.split("(")[0][:60]] += 1
            return text
        self._report.interrupted += 1
        time.sleep(0.02)
        return None


def run(fleet: Fleet, seconds: float, seed: int, kills_a_second: float = 1.0) -> Report:
    """Chaos for that long on a fleet that was not started yet; raises AssertionError."""
    port = add_shop(fleet, SHOP_STALE_SECONDS=STALE_SECONDS)
    fleet.launch()
    report = Report()
    seller = customer(fleet, "seller")
    new = [
        {"name": f"Thing {i}", "price": price, "quantity": STOCK} for i, price in enumerate(PRICES)
    ]
    added = seller.sell("add_multiple_products", products=new)["products"]
    products = [product["product_id"] for product in added]
    buyers = [customer(fleet, "buyer", f"Buyer{i}") for i in range(WORKERS)]
    for buyer in buyers:
        buyer.buy("add_balance", amount=DEPOSIT)
    began = time.monotonic()
    _let_them_work(fleet, report, _workers(buyers, products, report, seed), seconds, kills_a_second)
    report.seconds = time.monotonic() - began
    fleet.until(lambda: all(map(fleet.pid, VICTIMS)), "all that were killed are back")
    anyio.run(check, f"mongodb://127.0.0.1:{port}", report)
    return report


def _workers(buyers: list[Customer], products: list[str], report: Report, seed: int) -> list[Buyer]:
    return [Buyer(buyer, products, report, seed + i) for i, buyer in enumerate(buyers)]


def _let_them_work(
    fleet: Fleet, report: Report, workers: list[Buyer], seconds: float, kills_a_second: float
) -> None:
    stop = threading.Event()
    errors: list[BaseException] = []

    def work(buyer: Buyer) -> None:
        try:
            buyer.work(stop)
        except BaseException as error:  # shown below: the thread has nobody to tell
            errors.append(error)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        _kill_at_random(fleet, report, errors, seconds, kills_a_second)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not errors, errors


def _kill_at_random(
    fleet: Fleet,
    report: Report,
    errors: list[BaseException],
    seconds: float,
    kills_a_second: float,
) -> None:
    end = time.monotonic() + seconds
    told = in_vain = 0
    while not errors and (time.monotonic() < end or not report.says_something):
        time.sleep(random.expovariate(kills_a_second))
        in_vain, told = (0 if report.told > told else in_vain), report.told
        victim = random.choice(VICTIMS)  # noqa: S311
        if in_vain < IN_VAIN and _kill(fleet, victim):
            report.kills[victim] += 1
            in_vain += 1


def _kill(fleet: Fleet, victim: str) -> bool:
    """Whether it ran."""
    pid = fleet.pid(victim)
    with contextlib.suppress(ProcessLookupError):
        if pid:
            os.kill(pid, signal.SIGKILL)
            return True
    return False


async def check(uri: str, report: Report) -> None:
    """Every sum, and every acknowledged outcome."""
    async with open_store(uri, "shop", PATIENCE) as store:
        # The servers' own sweep runs beside: one of the two comes first.
        await sweep(store, 0)
        await sweep(store, 0)
        orders = {o["_id"]: o for o in await store.orders.find({}, limit=1_000_000)}
        report.states = Counter(order["state"] for order in orders.values())
        assert set(report.states) <= {"placed", "cancelled"}
        for key in report.placed:
            state = orders[key]["state"]
            expected = {"placed", "cancelled"} if key in report.cancelling else {"placed"}
            assert state in ({"cancelled"} if key in report.cancelled else expected), orders[key]
        sold = [order for order in orders.values() if order["state"] == "placed"]
        await _check_stock(store, sold)
        await _check_money(store, sold)


async def _check_stock(store: Store, sold: list[Document]) -> None:
    for product in await store.products.find({}, limit=1000):
        lines = [line for order in sold for line in order["lines"]]
        gone = sum(line["quantity"] for line in lines if line["product_id"] == product["_id"])
        assert product["stock"] + gone == STOCK, product
        assert (product["stock"] >= 0, product["marks"], product["marked"]) == (True, [], 0)


async def _check_money(store: Store, sold: list[Document]) -> None:
    entries = await store.ledger.find({}, limit=1_000_000)
    for user in await store.users.find({"role": "buyer"}, limit=1000):
        paid = sum(order["total"] for order in sold if order["buyer"] == user["_id"])
        own = [entry for entry in entries if entry["account"] == user["_id"]]
        deposits = sum(entry["amount"] for entry in own if entry["reason"] == "deposit")
        assert deposits == int(DEPOSIT) * 100
        assert user["balance"] + paid == deposits, user
        assert user["balance"] == sum(entry["amount"] for entry in own)
        assert (user["marks"], user["marked"]) == ([], 0)
