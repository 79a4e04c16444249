"""The shop through the gateway against the same pymongo operations done directly, in one run.

    python3 -m benchmarks.shop            # 10,000 products; prints p50 and the ratios

The direct side makes the shop's own reads and writes, with its own store, in this process. What a
call costs that needs no database is shown beside them: less than that nobody can add.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import orjson

from benchmarks.load import message_of
from benchmarks.wire import Pool, request_head, with_body
from servers.shop import accounts, carts, checkout, products
from servers.shop.products import NewProduct
from servers.shop.store import Store, open_store
from tests.fleet import PROJECT, Fleet, make_keys, open_fleet
from tests.shop import PATIENCE, Customer, add_shop, customer

PRODUCTS = 10_000
PAGE_LIMIT_MS = 8.0
ORDER_LIMIT_MS = 25.0
RATIO_LIMIT = 1.5


class Client:
    """A modern client on connections that are kept: what it costs itself is next to nothing."""

    def __init__(self, fleet: Fleet) -> None:
        self._url = f"http://127.0.0.1:{fleet.gateway['port']}/mcp"
        self._pool = Pool(self._url)
        self._token = fleet.token()

    async def call(self, tool: str, **arguments: Any) -> Any:
        """The structured answer; raises RuntimeError with what the tool said instead."""
        prefix, version = "io.modelcontextprotocol/", "2026-07-28"
        meta = {
            f"{prefix}protocolVersion": version,
            f"{prefix}clientInfo": {"name": "benchmark", "version": "1"},
            f"{prefix}clientCapabilities": {},
        }
        params = {"name": tool, "arguments": arguments, "_meta": meta}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        headers = {
            "authorization": f"Bearer {self._token}",
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": version,
            "mcp-method": "tools/call",
            "mcp-name": tool,
        }
        head = request_head("POST", self._url, headers)
        answer = await self._pool.exchange(with_body(head, orjson.dumps(body)))
        result = orjson.loads(message_of(answer))["result"]
        if result.get("isError"):
            raise RuntimeError(str(result["content"]))
        return result["structuredContent"]

    def close(self) -> None:
        self._pool.close()


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mcpcp-bench-") as name:
        folder = Path(name)
        keys = make_keys(folder / "keys")
        with open_fleet(folder, keys) as fleet:
            port = add_shop(fleet)
            fleet.add("time", PROJECT / "servers" / "time_client.py", type="http")
            fleet.launch()
            seller, buyer = customer(fleet, "seller"), customer(fleet, "buyer")
            buyer.buy("add_balance", amount="1000000")
            anyio.run(_measure, fleet, f"mongodb://127.0.0.1:{port}", seller, buyer, flags.rounds)


async def _measure(fleet: Fleet, uri: str, seller: Customer, buyer: Customer, rounds: int) -> None:
    async with open_store(uri, "shop", PATIENCE) as store:
        who = await accounts.signed_in(store, seller.session)
        new = [NewProduct(f"Thing {i * 7919 % PRODUCTS}", 100, 1000) for i in range(PRODUCTS)]
        for start in range(0, PRODUCTS, 1000):
            await products.add(store, who.user, new[start : start + 1000])
        found, _ = await products.page(store, None, "name", 1)
        keys = [product["_id"] for product in found[:2]]
        client = Client(fleet)
        me = (await accounts.signed_in(store, buyer.session)).user
        pages = await _compare(
            lambda: client.call("shop_buyer_view_all_products"),
            lambda: products.page(store, None, "name", 1),
            _nothing,
            rounds,
        )
        orders = await _compare(
            lambda: client.call("shop_buyer_place_order", session=buyer.session),
            lambda: checkout.place(store, me, None, "EUR"),
            lambda: _fill(store, me, keys),
            rounds,
        )
        bare = await _compare(
            lambda: client.call("time_get_current_time"), _nothing, _nothing, rounds
        )
        client.close()
    print(f"a call that needs no database: p50 {bare[0]:.1f} ms through the gateway")
    _show("view_all_products, first of 500 pages", pages, PAGE_LIMIT_MS)
    _show("place_order, two lines", orders, ORDER_LIMIT_MS)


async def _compare(
    through: Callable[[], Awaitable[Any]],
    direct: Callable[[], Awaitable[Any]],
    prepare: Callable[[], Awaitable[Any]],
    rounds: int,
) -> tuple[float, float]:
    """Medians in milliseconds; the two take turns, so that the machine's moods meet both."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 5):
        for ways, kept in zip((through, direct), times, strict=True):
            await prepare()
            began = time.perf_counter()
            await ways()
            if number >= 5:
                kept.append((time.perf_counter() - began) * 1000)
    return statistics.median(times[0]), statistics.median(times[1])


async def _nothing() -> None:
    return None


async def _fill(store: Store, buyer: str, keys: list[str]) -> None:
    lines = [carts.Line(key, 1, 100) for key in keys]
    await carts.edit(store, buyer, lambda _: tuple(lines))


def _show(what: str, medians: tuple[float, float], limit: float) -> None:
    through, direct = medians
    ratio = through / direct
    verdict = "ok" if through <= limit and ratio <= RATIO_LIMIT else "MISSED"
    print(
        f"{what}: p50 {through:.1f} ms through the gateway (at most {limit:g}), {direct:.1f} ms "
        f"direct, {ratio:.2f} times (at most {RATIO_LIMIT:g}): {verdict}"
    )


if __name__ == "__main__":
    main()
