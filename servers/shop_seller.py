"""The shop for sellers: offer products, change them, see what was sold.

Environment: MONGODB_URI and MONGODB_DATABASE say where the shop's data is, SHOP_CURRENCY (EUR) what
it is paid in (docs/shop.md).
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file: use the package that this very file belongs to
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from collections.abc import Mapping
from typing import Annotated, Any

from mcp.server.mcpserver import MCPServer
from pydantic import Field, TypeAdapter, ValidationError

from servers.serving import serve
from servers.shop import accounts, orders, products
from servers.shop.arguments import (
    Amount,
    Description,
    NewValue,
    ProductId,
    ProductInput,
    ProductName,
    Session,
    Stock,
)
from servers.shop.errors import Refused
from servers.shop.products import NewProduct
from servers.shop.products import add as offer
from servers.shop.results import Product, Sales, SellerProducts
from servers.shop.tools import ADDS, READS, SETS, Shop

MOST_AT_ONCE = 100
SHOWN = 500

ProductInputs = Annotated[list[ProductInput], Field(min_length=1, max_length=MOST_AT_ONCE)]
FieldName = Annotated[products.Field, Field(description="what to change")]

_RULES: Mapping[str, TypeAdapter[Any]] = {
    "name": TypeAdapter(ProductName),
    "description": TypeAdapter(Description),
    "quantity": TypeAdapter(Stock),
}


def seller_server(shop: Shop) -> MCPServer[Any]:
    """The server and its tools over one shop."""
    server: MCPServer[Any] = MCPServer(
        "shop_seller",
        title="Shop: selling",
        description="Lets sellers offer their products and see their sales.",
        instructions="Sign in as a seller with shop_auth first; you see only your own products.",
    )
    _add_offering(server, shop)
    _add_looking(server, shop)
    return server


def _add_offering(server: MCPServer[Any], shop: Shop) -> None:
    @server.tool(title="Add a product", annotations=ADDS)
    async def add_product(
        session: Session,
        name: ProductName,
        price: Amount,
        quantity: Stock,
        description: Description = "",
    ) -> Product:
        """Put a product on sale."""
        async with shop.open() as store:
            new = NewProduct(name, shop.minor(price), quantity, description)
            who = await accounts.signed_in(store, session, "seller")
            (added,) = await offer(store, who.user, [new])
        return shop.show.product(added)

    @server.tool(title="Add products", annotations=ADDS)
    async def add_multiple_products(session: Session, products: ProductInputs) -> SellerProducts:
        """Put up to 100 products on sale."""
        async with shop.open() as store:
            new = [
                NewProduct(one.name, shop.minor(one.price), one.quantity, one.description)
                for one in products
            ]
            who = await accounts.signed_in(store, session, "seller")
            added = await offer(store, who.user, new)
        return SellerProducts(products=shop.show.products(added), more=False)

    @server.tool(title="Change a product", annotations=SETS)
    async def update_product(
        session: Session, product_id: ProductId, field: FieldName, new_value: NewValue
    ) -> Product:
        """Change one field of an own product; a new price holds for carts from now on."""
        async with shop.open() as store:
            who = await accounts.signed_in(store, session, "seller")
            value = _value(shop, field, new_value)
            changed = await products.change(store, who.user, product_id, field, value)
        return shop.show.product(changed)

    @server.tool(title="Delete a product", annotations=SETS)
    async def delete_product(session: Session, product_id: ProductId) -> Product:
        """Take an own product off sale for good."""
        async with shop.open() as store:
            who = await accounts.signed_in(store, session, "seller")
            return shop.show.product(await products.delete(store, who.user, product_id))


def _add_looking(server: MCPServer[Any], shop: Shop) -> None:
    @server.tool(title="See own products", annotations=READS)
    async def view_seller_products(session: Session) -> SellerProducts:
        """Show the own products that are on sale, by name."""
        async with shop.open() as store:
            who = await accounts.signed_in(store, session, "seller")
            found = await products.of_seller(store, who.user, SHOWN + 1)
        shown = shop.show.products(found[:SHOWN])
        return SellerProducts(products=shown, more=len(found) > SHOWN)

    @server.tool(title="See sales", annotations=READS)
    async def list_sales(session: Session) -> Sales:
        """Show the latest sales of own products, the newest first."""
        async with shop.open() as store:
            who = await accounts.signed_in(store, session, "seller")
            found = await orders.sales(store, who.user)
        return shop.show.sales(found, who.user, len(found) == orders.SALES_SHOWN)


def _value(shop: Shop, field: products.Field, text: str) -> str | int:
    """The new value of a field, by the rules that hold when a product is added."""
    if field == "price":
        return shop.minor(text)
    try:
        value: str | int = _RULES[field].validate_python(text)
    except ValidationError as error:
        raise Refused(f"new_value is no {field}: {error.errors()[0]['msg']}") from error
    return value


def main() -> None:
    """Serve sellers as the command line and the environment say."""
    shop = Shop.from_settings("shop_seller")
    serve(seller_server(shop), port=9009, health=shop.health, background=shop.running)


if __name__ == "__main__":
    main()
