"""The shop's scripts as processes: what they say of themselves, with the database there or not."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.client.client import Client
from mcp_types import TextContent

from tests.servers.harness import DEADLINE, ROOT, Script, connected, running
from tests.shop import PASSWORD, SERVERS, Database, open_database

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(1200)]


def script(name: str) -> Path:
    return ROOT / "servers" / f"{name}.py"


class Failed(Exception):
    """The tool said no; the message is its own."""


class Scripts:
    """The three servers, each with a client; tools are called by their own names."""

    def __init__(self, scripts: list[Script], clients: list[Client]) -> None:
        self.scripts = scripts
        self._clients = clients
        self.tools: dict[str, Any] = {}
        self._homes: dict[str, Client] = {}

    async def learn(self) -> None:
        for client in self._clients:
            for tool in (await client.list_tools()).tools:
                self.tools[tool.name] = tool
                self._homes[tool.name] = client

    async def call(self, tool: str, **arguments: Any) -> Any:
        result = await self._homes[tool].call_tool(tool, arguments)
        if result.is_error:
            said = [part.text for part in result.content if isinstance(part, TextContent)]
            raise Failed(" ".join(said))
        return result.structured_content

    async def customer(self, role: str, name: str = "Ada") -> str:
        """The session of a new account."""
        email = f"{name.lower()}.{role}@example.com"
        await self.call("register_user", name=name, email=email, password=PASSWORD, role=role)
        return str((await self.call("login_user", email=email, password=PASSWORD))["session"])

    def health(self, which: int = 1) -> dict[str, Any]:
        found: dict[str, Any] = self.scripts[which].get("/health").json()
        return found

    async def until_health(self, status: str) -> None:
        deadline = time.monotonic() + DEADLINE
        while any(self.health(i)["status"] != status for i in range(len(self.scripts))):
            assert time.monotonic() < deadline, self.health()
            await anyio.sleep(0.05)


@asynccontextmanager
async def serving(uri: str, **env: str) -> AsyncIterator[Scripts]:
    with ExitStack() as processes:
        scripts = [
            processes.enter_context(running(script(name), env={"MONGODB_URI": uri, **env}))
            for name in SERVERS
        ]
        async with AsyncExitStack() as connections:
            clients = [
                await connections.enter_async_context(connected(one.url, "http", "auto"))
                for one in scripts
            ]
            shop = Scripts(scripts, clients)
            await shop.learn()
            yield shop


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with open_database(tmp_path) as opened:
        yield opened


async def test_tools_have_schemas_and_say_what_they_do(
    database: Database,
) -> None:
    async with serving(database.uri) as shop:
        assert len(shop.tools) == 22
        for tool in shop.tools.values():
            assert tool.output_schema, tool.name
            assert tool.description
            assert tool.annotations.idempotent_hint is not None
        read_only = {n for n, t in shop.tools.items() if t.annotations.read_only_hint}
        assert read_only == {
            "check_user", "view_all_products", "view_product_details", "view_cart",
            "check_balance", "list_orders", "view_order", "view_seller_products", "list_sales",
        }  # fmt: skip
        for name, tool in shop.tools.items():
            if name not in read_only:
                destroys = not name.startswith(("add_", "register_", "login_", "place_"))
                assert tool.annotations.destructive_hint is destroys, name
        repeatable = {n for n, t in shop.tools.items() if t.annotations.idempotent_hint}
        assert not repeatable & {"place_order", "add_balance", "add_to_cart", "add_product"}


async def test_without_a_database_the_servers_stay_up_and_say_so(
    free_port: Callable[[], int], tmp_path: Path
) -> None:
    database = Database(tmp_path / "mongo", free_port())
    async with serving(database.uri) as shop:
        assert shop.health()["status"] == "degraded"
        assert "database" in shop.health()["detail"]
        assert shop.scripts[1].get("/ready").status_code == 200
        with pytest.raises(Failed, match=r"database can't be reached.*Try again"):
            await shop.call("view_all_products")
        database.start()
        try:
            await shop.until_health("ok")
            assert (await shop.call("view_all_products"))["products"] == []
            database.kill()
            await shop.until_health("degraded")
            with pytest.raises(Failed, match="database"):
                await shop.call("view_all_products")
            database.start()
            await shop.until_health("ok")
            assert (await shop.call("view_all_products"))["products"] == []
        finally:
            database.kill()


async def test_the_servers_stop_in_order_with_the_database_there_or_not(
    database: Database, free_port: Callable[[], int]
) -> None:
    for uri in (database.uri, f"mongodb://127.0.0.1:{free_port()}"):
        for name in SERVERS:
            with running(script(name), env={"MONGODB_URI": uri}) as one:
                if uri == database.uri:
                    one.wait_for("the shop's database is there")
                assert one.stop() == 0
                assert one.noise == []
    assert database.stop() == 0


async def test_a_uri_that_can_not_be_used_is_named() -> None:
    with running(script("shop_auth"), env={"MONGODB_URI": "http://nowhere"}) as one:
        health = one.get("/health").json()
        deadline = time.monotonic() + DEADLINE
        while "MONGODB_URI" not in health["detail"]:
            assert time.monotonic() < deadline, health
            await anyio.sleep(0.05)
            health = one.get("/health").json()
        assert health["status"] == "degraded"


@pytest.mark.parametrize(
    ("name", "value"), [("SHOP_CURRENCY", "euro"), ("SHOP_STALE_SECONDS", "soon")]
)
def test_a_setting_that_can_not_be_used_ends_the_script(name: str, value: str) -> None:
    done = subprocess.run(
        [sys.executable, str(script("shop_buyer"))],
        env={**os.environ, name: value},
        input=b"",
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 2
    assert name in done.stderr.decode()


async def test_a_database_that_hangs_is_not_waited_for(database: Database) -> None:
    async with serving(database.uri) as shop:
        session = await shop.customer("buyer")
        database.halt()
        try:  # it hangs for as long as nobody lets it go on: the answer is there before that
            with pytest.raises(Failed, match="database"):
                await shop.call("add_balance", session=session, amount="5")
        finally:
            database.go_on()
        await shop.until_health("ok")
        assert (await shop.call("check_balance", session=session))["balance"] == "0.00 EUR"


async def test_a_database_that_is_slow_is_waited_for(database: Database) -> None:
    async with serving(database.uri) as shop:
        seller, buyer = await shop.customer("seller"), await shop.customer("buyer")
        tea = await shop.call("add_product", session=seller, name="Tea", price="2", quantity=3)
        await shop.call("add_to_cart", session=buyer, product_id=tea["product_id"])
        await shop.call("add_balance", session=buyer, amount="9")
        orders: list[Any] = []

        async def place() -> None:
            orders.append(await shop.call("place_order", session=buyer, idempotency_key="slow"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(place)
            for _ in range(20):  # it answers, and then for four times as long it does not
                if orders:
                    break
                database.halt()
                await anyio.sleep(0.2)
                database.go_on()
                await anyio.sleep(0.05)
        assert orders[0]["state"] == "placed"
        assert (await shop.call("check_balance", session=buyer))["balance"] == "7.00 EUR"
        assert len((await shop.call("list_orders", session=buyer))["orders"]) == 1


async def test_a_full_disk_is_told_and_loses_nothing(database: Database) -> None:
    async with serving(database.uri) as shop:
        seller, buyer = await shop.customer("seller"), await shop.customer("buyer")
        await shop.call("add_balance", session=buyer, amount="50")
        assert database.process
        added = 0
        # No file of it may grow beyond what it is now, and a little.
        largest = max(path.stat().st_size for path in database.folder.iterdir())
        limit = (largest + 300_000, resource.RLIM_INFINITY)
        resource.prlimit(database.process.pid, resource.RLIMIT_FSIZE, limit)
        product = {"name": "Tea", "price": "1", "quantity": 5, "description": "x" * 4000}
        with pytest.raises(Failed, match="database"):
            for _ in range(500):
                await shop.call("add_product", session=seller, **product)
                added += 1
        assert added > 0
        no_limit = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(database.process.pid, resource.RLIMIT_FSIZE, no_limit)
        await shop.until_health("ok")
        await shop.call("add_product", session=seller, **product)
        found = await shop.call("view_seller_products", session=seller)
        assert added + 1 <= len(found["products"]) <= added + 2
        assert (await shop.call("check_balance", session=buyer))["balance"] == "50.00 EUR"


async def test_a_session_is_good_for_its_user_and_role_only(database: Database) -> None:
    async with serving(database.uri) as shop:
        seller = await shop.customer("seller")
        ada, bob = await shop.customer("buyer"), await shop.customer("buyer", "Bob")
        product = await shop.call("add_product", session=seller, name="Tea", price=2, quantity=3)
        key = product["product_id"]
        with pytest.raises(Failed, match="for a seller"):
            await shop.call("add_product", session=ada, name="Cup", price="1", quantity=1)
        with pytest.raises(Failed, match="for a buyer"):
            await shop.call("add_to_cart", session=seller, product_id=key)
        await shop.call("add_to_cart", session=ada, product_id=key)
        assert (await shop.call("view_cart", session=bob))["lines"] == []
        await shop.call("add_balance", session=ada, amount=2)
        order = await shop.call("place_order", session=ada)
        with pytest.raises(Failed, match="you have no order"):
            await shop.call("view_order", session=bob, order_id=order["order_id"])
        with pytest.raises(Failed, match="session is unknown"):
            await shop.call("view_cart", session="s_made_up")
        await shop.call("logout_user", session=ada)
        await shop.call("logout_user", session=ada)
        with pytest.raises(Failed, match="login_user"):
            await shop.call("view_cart", session=ada)
        assert await shop.call("check_user", name="Ada") == {"name": "Ada", "registered": True}
        assert not (await shop.call("check_user", name="A.a"))["registered"]


HOSTILE: tuple[Any, ...] = (
    {"$gt": ""},
    {"$ne": None},
    ["a", {"$where": "sleep(9)"}],
    "$where",
    ".*",
    "(a+)+$",
    "%",
    "' OR '1'='1",
    "a\x00b",
    "\u202etxet",
    "\U000e0041dmin",
    "\u0430da",
    "x" * 100_000,
    "../../etc/passwd",
    -1,
    10**30,
    1.5e308,
    True,
    "",
)


async def test_no_argument_is_taken_for_more_than_it_is(database: Database) -> None:
    async with serving(database.uri) as shop:
        seller, buyer = await shop.customer("seller"), await shop.customer("buyer")
        tea = await shop.call("add_product", session=seller, name="Tea", price="2", quantity=3)
        await shop.call("add_balance", session=buyer, amount="9")
        good = {
            "session": buyer, "product_id": tea["product_id"], "name": "Eve", "role": "buyer",
            "email": "ada.buyer@example.com", "password": PASSWORD, "amount": "1",
            "order_id": "order_x", "price": "1", "quantity": 1, "field": "price",
            "new_value": "1", "products": [],
        }  # fmt: skip
        for name, tool in shop.tools.items():
            schema = tool.input_schema
            required = {key: good[key] for key in schema.get("required", ())}
            for argument in schema["properties"]:
                for value in HOSTILE:
                    await try_hostile(shop, name, {**required, argument: value})
        assert await shop.call("view_product_details", product_id=tea["product_id"]) == tea
        users = await shop.call("view_seller_products", session=seller)
        assert [product["name"] for product in users["products"]] == ["Tea"]
        for one in shop.scripts:
            one.wait_for("listening")
            assert not [e for e in one.log if e["level"] in ("ERROR", "CRITICAL")], one.log
        await shop.until_health("ok")


async def try_hostile(shop: Scripts, tool: str, arguments: dict[str, Any]) -> None:
    """Whatever comes back is an answer of the tool; nothing of the machinery shows in it."""
    if tool == "register_user" and all(isinstance(v, str) for v in arguments.values()):
        return  # each would be a password hash; what these texts may be is for the unit tests
    try:
        said = json.dumps(await shop.call(tool, **arguments))
    except Failed as failure:
        said = str(failure)
    for word in ("Traceback", "pymongo", "sqlite", "argon2", "mongodb://"):
        assert word not in said, (tool, arguments)
