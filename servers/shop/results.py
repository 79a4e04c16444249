"""What the tools answer, as the dicts that go into JSON; amounts are texts such as "12.50 EUR".

The SDK makes the tools' schemas of these types, and checks each answer by them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict  # pydantic reads the standard one from Python 3.12 on

from servers.shop import accounts, clock
from servers.shop.carts import Cart
from servers.shop.money import to_text
from servers.shop.products import ON_SALE

State = Literal["pending", "placed", "cancelled"]


class Account(TypedDict):
    """A user, as that user sees it."""

    user_id: str
    name: str
    email: str
    role: accounts.Role
    phone: NotRequired[Annotated[str | None, Field(default=None)]]
    address: NotRequired[Annotated[str | None, Field(default=None)]]


class SignedIn(TypedDict):
    """A new session."""

    session: Annotated[
        str, Field(description="give it to the tools that ask for one; it is a secret")
    ]
    name: str
    role: accounts.Role
    expires_at: str


class Known(TypedDict):
    """Whether there is such a user."""

    name: str
    registered: bool


class Done(TypedDict):
    """That it is done."""

    message: str


class Product(TypedDict):
    """A product in the shop."""

    product_id: str
    name: str
    price: str
    quantity: Annotated[int, Field(description="how many are left to sell")]
    description: str


class Products(TypedDict):
    """A page of products."""

    products: list[Product]
    page: int
    more: Annotated[bool, Field(description="whether there is a next page")]


class SellerProducts(TypedDict):
    """A seller's own products."""

    products: list[Product]
    more: Annotated[bool, Field(description="whether there are more than are shown")]


class CartLine(TypedDict):
    """So many of a product in a cart."""

    product_id: str
    quantity: int
    price: Annotated[str, Field(description="of one, when it was put in the cart")]


class CartView(TypedDict):
    """A cart."""

    lines: list[CartLine]
    total: str


class Balance(TypedDict):
    """What a buyer can spend."""

    balance: str


class OrderLine(TypedDict):
    """So many of a product, at the price of one that was paid."""

    product_id: str
    name: str
    quantity: int
    price: str


class Order(TypedDict):
    """An order."""

    order_id: str
    state: State
    total: str
    lines: list[OrderLine]
    created_at: str
    reason: NotRequired[
        Annotated[str | None, Field(default=None, description="why it was cancelled")]
    ]


class Orders(TypedDict):
    """A buyer's latest orders, the newest first."""

    orders: list[Order]


class Sale(TypedDict):
    """So many of a seller's product in one placed order."""

    order_id: str
    product_id: str
    name: str
    quantity: int
    price: str
    sold_at: str


class Sales(TypedDict):
    """A seller's latest sales, the newest first."""

    sales: list[Sale]
    revenue: Annotated[str, Field(description="of the sales shown")]
    more: Annotated[bool, Field(description="whether there may be older ones")]


@dataclass(frozen=True, slots=True)
class Show:
    """Makes results of documents, in one currency."""

    currency: str

    def money(self, minor: int) -> str:
        return to_text(minor, self.currency)

    def products(self, found: Iterable[Mapping[str, Any]]) -> list[Product]:
        return [self.product(product) for product in found]

    def product(self, found: Mapping[str, Any]) -> Product:
        on_sale = found["state"] == ON_SALE
        return Product(
            product_id=found["_id"],
            name=found["name"],
            price=self.money(found["price"]),
            quantity=found["stock"] if on_sale else 0,
            description=found["description"] if on_sale else "(deleted)",
        )

    def cart(self, cart: Cart) -> CartView:
        lines = [
            CartLine(
                product_id=line.product_id, quantity=line.quantity, price=self.money(line.price)
            )
            for line in cart.lines
        ]
        total = sum(line.quantity * line.price for line in cart.lines)
        return CartView(lines=lines, total=self.money(total))

    def order(self, found: Mapping[str, Any]) -> Order:
        lines = [
            OrderLine(
                product_id=line["product_id"],
                name=line["name"],
                quantity=line["quantity"],
                price=self.money(line["price"]),
            )
            for line in found["lines"]
        ]
        return Order(
            order_id=found["_id"],
            state=found["state"],
            total=self.money(found["total"]),
            lines=lines,
            created_at=clock.to_text(found["created"]),
            reason=found["reason"],
        )

    def sales(self, orders: Sequence[Mapping[str, Any]], seller: str, more: bool) -> Sales:
        own = [
            (order, line) for order in orders for line in order["lines"] if line["seller"] == seller
        ]
        sales = [
            Sale(
                order_id=order["_id"],
                product_id=line["product_id"],
                name=line["name"],
                quantity=line["quantity"],
                price=self.money(line["price"]),
                sold_at=clock.to_text(order["placed"]),
            )
            for order, line in own
        ]
        revenue = sum(line["quantity"] * line["price"] for _, line in own)
        return Sales(sales=sales, revenue=self.money(revenue), more=more)


def account(user: Mapping[str, Any]) -> Account:
    """A user's own details."""
    return Account(
        user_id=user["_id"],
        name=user["name"],
        email=user["email"],
        role=user["role"],
        phone=user["phone"],
        address=user["address"],
    )
