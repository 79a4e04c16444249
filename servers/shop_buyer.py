"""The shop for buyers: look at products, fill a cart, pay and order.

Environment: MONGODB_URI and MONGODB_DATABASE say where the shop's data is, SHOP_CURRENCY (EUR) what
it is paid in, SHOP_STALE_SECONDS (30) when an order that stands still is ended (docs/shop.md).
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file: use the package that this very file belongs to
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from typing import TYPE_CHECKING, Annotated, Any

from mcp.server.mcpserver import MCPServer
from pydantic import Field

from servers.serving import serve
from servers.shop import (
    accounts,
    cancellation,
    carts,
    checkout,
    deposits,
    metrics,
    orders,
    products,
)
from servers.shop.arguments import (
    Amount,
    CartItem,
    IdempotencyKey,
    OrderId,
    Page,
    ProductId,
    Quantity,
    Query,
    Session,
)
from servers.shop.errors import Refused
from servers.shop.results import Balance, CartView, Order, Orders, Product, Products
from servers.shop.sweep import sweeping
from servers.shop.tools import ADDS, READS, SETS, Shop, seconds

if TYPE_CHECKING:
    from servers.shop.store import Store

Sort = Annotated[products.Sort, Field(description="-price: the dearest first")]
Items = Annotated[list[CartItem], Field(max_length=carts.MOST_LINES)]


def buyer_server(shop: Shop) -> MCPServer[Any]:
    """The server and its tools over one shop."""
    server: MCPServer[Any] = MCPServer(
        "shop_buyer",
        title="Shop: buying",
        description="Shows the shop's products, keeps carts and balances, and places orders.",
        instructions=(
            "Anybody may look at products. For the rest, sign in as a buyer with shop_auth. Then: "
            "add_to_cart, add_balance, place_order. Give place_order an idempotency_key, and "
            "repeat it with the same key if its answer got lost: it orders once."
        ),
    )
    _add_products(server, shop)
    _add_cart(server, shop)
    _add_balance(server, shop)
    _add_orders(server, shop)
    return server


def _add_products(server: MCPServer[Any], shop: Shop) -> None:
    @server.tool(title="See products", annotations=READS)
    async def view_all_products(
        query: Query | None = None, sort: Sort = "name", page: Page = 1
    ) -> Products:
        """Show the products on sale, 20 a page."""
        async with shop.open() as store:
            found, more = await products.page(store, query, sort, page)
        return Products(products=shop.show.products(found), page=page, more=more)

    @server.tool(title="See a product", annotations=READS)
    async def view_product_details(product_id: ProductId) -> Product:
        """Show one product."""
        async with shop.open() as store:
            return shop.show.product(await products.on_sale(store, product_id))


def _add_cart(server: MCPServer[Any], shop: Shop) -> None:
    @server.tool(title="Add to the cart", annotations=ADDS)
    async def add_to_cart(
        session: Session,
        product_id: ProductId | None = None,
        quantity: Quantity = 1,
        items: Items | None = None,
    ) -> CartView:
        """Put a product, or several `items`, in the cart, at the prices of now."""
        async with shop.open() as store:
            who = await accounts.signed_in(store, session, "buyer")
            new = await _priced(products_of(product_id, quantity, items), store)
            cart = await carts.edit(store, who.user, lambda lines: carts.added(lines, new))
        return shop.show.cart(cart)

    @server.tool(title="See the cart", annotations=READS)
    async def view_cart(session: Session) -> CartView:
        """Show what is in the cart."""
        async with shop.open() as store:
            who = await accounts.signed_in(store, session, "buyer")
            return shop.show.cart(await carts.current(store, who.user))

    @server.tool(title="Remove from the cart", annotations=SETS)
    async def delete_from_cart(session: Session, product_id: ProductId) -> CartView:
        """Take a product out of the cart."""
        async with shop.open() as store:
            who = await accounts.signed_in(store, session, "buyer")
            cart = await carts.edit(store, who.user, lambda lines: carts.without(lines, product_id))
        return shop.show.cart(cart)


def _add_balance(server: MCPServer[Any], shop: Shop) -> None:
    @server.tool(title="See the balance", annotations=READS)
    async def check_balance(session: Session) -> Balance:
        """Show what there is to spend."""
        async with shop.open() as store:
            who = await accounts.signed_in(store, session, "buyer")
            return Balance(balance=shop.show.money(await deposits.balance(store, who.user)))

    @server.tool(title="Add to the balance", annotations=ADDS)
    async def add_balance(session: Session, amount: Amount) -> Balance:
        """Put money in; each call adds."""
        async with shop.open() as store:
            minor = shop.minor(amount)
            who = await accounts.signed_in(store, session, "buyer")
            return Balance(balance=shop.show.money(await deposits.deposit(store, who.user, minor)))


def _add_orders(server: MCPServer[Any], shop: Shop) -> None:
    @server.tool(title="Order", annotations=ADDS)
    async def place_order(session: Session, idempotency_key: IdempotencyKey | None = None) -> Order:
        """Order and pay everything in the cart: all of it or nothing."""
        async with shop.open() as store:
            who = await accounts.signed_in(store, session, "buyer")
            with metrics.checkout():
                order = await checkout.place(store, who.user, idempotency_key, shop.currency)
        return shop.show.order(order)

    @server.tool(title="See orders", annotations=READS)
    async def list_orders(session: Session) -> Orders:
        """Show the latest 50 orders, the newest first."""
        async with shop.open() as store:
            who = await accounts.signed_in(store, session, "buyer")
            found = await orders.of_buyer(store, who.user)
        return Orders(orders=[shop.show.order(order) for order in found])

    @server.tool(title="See an order", annotations=READS)
    async def view_order(session: Session, order_id: OrderId) -> Order:
        """Show one order."""
        async with shop.open() as store:
            who = await accounts.signed_in(store, session, "buyer")
            return shop.show.order(await orders.own(store, who.user, order_id))

    @server.tool(title="Cancel an order", annotations=SETS)
    async def cancel_order(session: Session, order_id: OrderId) -> Order:
        """Cancel an order: its products go back to the shop, its money to the balance."""
        async with shop.open() as store:
            who = await accounts.signed_in(store, session, "buyer")
            return shop.show.order(await cancellation.cancel(store, who.user, order_id))


def products_of(
    product_id: str | None, quantity: int, items: list[CartItem] | None
) -> list[CartItem]:
    """What add_to_cart was asked for, in whichever of its two ways."""
    if (product_id is None) == (not items):
        raise Refused("give either product_id, with a quantity, or items")
    if product_id is not None:
        return [CartItem(product_id=product_id, quantity=quantity)]
    return items or []


async def _priced(items: list[CartItem], store: Store) -> list[carts.Line]:
    found = await products.by_id(store, {item.product_id for item in items})
    lines = []
    for item in items:
        product = found.get(item.product_id)
        if product is None or product["state"] != products.ON_SALE:
            raise products.not_on_sale(item.product_id)
        lines.append(carts.Line(item.product_id, item.quantity, product["price"]))
    return lines


def main() -> None:
    """Serve buyers as the command line and the environment say, and sweep beside it."""
    shop = Shop.from_settings("shop_buyer")
    stale = seconds("SHOP_STALE_SECONDS", checkout.STALE_SECONDS)
    serve(
        buyer_server(shop),
        port=9008,
        health=shop.health,
        background=lambda: shop.running(sweeping(stale)),
    )


if __name__ == "__main__":
    main()
