"""The shop through the real launcher and gateway."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.fleet import CallFailed, Fleet
from tests.shop import SERVERS, add_shop, again, customer


def test_a_newcomer_buys_and_a_seller_sees_it(fleet: Fleet) -> None:
    add_shop(fleet)
    fleet.launch()
    seller, buyer = customer(fleet, "seller"), customer(fleet, "buyer")
    added = seller.sell(
        "add_multiple_products",
        products=[
            {"name": "Tea", "price": "4.50", "quantity": 10},
            {"name": "Cup", "price": "12 EUR", "quantity": 2, "description": "of porcelain"},
        ],
    )
    tea, cup = (product["product_id"] for product in added["products"])
    shown = fleet.call("shop_buyer_view_all_products", query="porcelain CUP")
    assert [product["product_id"] for product in shown["products"]] == [cup]
    assert shown["products"][0]["price"] == "12.00 EUR"
    cart = buyer.buy("add_to_cart", items=[{"product_id": tea, "quantity": 3}, {"product_id": cup}])
    assert cart["total"] == "25.50 EUR"
    with pytest.raises(CallFailed, match=r"balance is too low for 25\.50 EUR"):
        buyer.buy("place_order")
    assert buyer.buy("add_balance", amount="30")["balance"] == "30.00 EUR"
    order = buyer.buy("place_order", idempotency_key="first")
    assert (order["state"], order["total"]) == ("placed", "25.50 EUR")
    assert buyer.buy("place_order", idempotency_key="first") == order
    assert buyer.buy("check_balance") == {"balance": "4.50 EUR"}
    assert buyer.buy("view_cart")["lines"] == []
    assert seller.sell("list_sales")["revenue"] == "25.50 EUR"
    assert buyer.buy("cancel_order", order_id=order["order_id"])["state"] == "cancelled"
    assert buyer.buy("check_balance") == {"balance": "30.00 EUR"}
    assert seller.sell("list_sales")["sales"] == []
    quantities = {p["name"]: p["quantity"] for p in seller.sell("view_seller_products")["products"]}
    assert quantities == {"Cup": 2, "Tea": 10}


def test_the_gateway_leaves_the_database_alone(fleet: Fleet) -> None:
    add_shop(fleet)
    fleet.launch()
    assert fleet.state("shop_db") == "RUNNING"
    snapshot = fleet.status()
    assert snapshot
    assert {row.name for row in snapshot.servers} == {*SERVERS, "shop_db"}


def test_a_killed_database_comes_back_under_its_servers(fleet: Fleet) -> None:
    add_shop(fleet)
    fleet.launch()
    buyer = customer(fleet, "buyer")
    buyer.buy("add_balance", amount="30")
    servers = {name: fleet.pid(name) for name in SERVERS}
    before = fleet.until(lambda: fleet.pid("shop_db"), "it runs")
    os.kill(before, signal.SIGKILL)
    fleet.until(lambda: fleet.pid("shop_db") not in (0, before), "the database is back")
    assert again(fleet, lambda: buyer.buy("check_balance")) == {"balance": "30.00 EUR"}
    assert {name: fleet.pid(name) for name in SERVERS} == servers


def test_a_backup_is_taken_and_put_back_while_the_shop_runs(fleet: Fleet) -> None:
    add_shop(fleet)
    fleet.launch()
    buyer = customer(fleet, "buyer")
    buyer.buy("add_balance", amount="30")
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(lambda: [buyer.buy("add_balance", amount="0.01") for _ in range(40)])
        saved = fleet.mcpcp("data", "backup", str(fleet.folder / "monday"))
        assert saved.returncode == 0, saved.stderr
        busy.result()
    assert fleet.mcpcp("data", "backup", str(fleet.folder / "monday")).returncode == 1
    assert buyer.buy("check_balance") == {"balance": "30.40 EUR"}
    restored = fleet.mcpcp("data", "restore", str(fleet.folder / "monday"))
    assert restored.returncode == 0, restored.stderr
    assert "restarted shop_db" in restored.stdout
    at_the_time = again(fleet, lambda: buyer.buy("check_balance"))["balance"]
    assert "30.00 EUR" <= at_the_time <= "30.40 EUR"
    added = buyer.buy("add_balance", amount="1")["balance"]
    assert float(added.split()[0]) == pytest.approx(float(at_the_time.split()[0]) + 1)
    (before,) = (fleet.folder / "data" / "backups").glob("before-restore-*")
    assert fleet.mcpcp("data", "restore", str(before)).returncode == 0
    assert again(fleet, lambda: buyer.buy("check_balance")) == {"balance": "30.40 EUR"}


def test_a_damaged_backup_is_not_put_back(fleet: Fleet) -> None:
    add_shop(fleet)
    fleet.launch()
    buyer = customer(fleet, "buyer")
    folder = fleet.folder / "monday"
    assert fleet.mcpcp("data", "backup", str(folder)).returncode == 0
    with (folder / "shop.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096)
    refused = fleet.mcpcp("data", "restore", str(folder))
    assert refused.returncode == 1
    assert "damaged" in refused.stderr or "can't be read" in refused.stderr
    assert buyer.buy("check_balance") == {"balance": "0.00 EUR"}
