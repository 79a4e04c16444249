"""What the tools take: bounded and normalized before a tool sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from servers.shop import text

MOST_QUANTITY = 1_000_000


def bounded(clean: Callable[[str], str], most: int, least: int = 0) -> AfterValidator:
    """A check that also bounds what normalizing made of a text: it can grow."""

    def check(value: str) -> str:
        result = clean(value)
        if not least <= len(result) <= most:
            raise ValueError(f"must have {least} to {most} characters")
        return result

    return AfterValidator(check)


def _as_text(value: Any) -> Any:
    """Models write amounts as numbers too."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number else value


Session = Annotated[
    str, Field(min_length=1, max_length=128, description="what shop_auth's login_user returned")
]
PersonName = Annotated[
    str, Field(max_length=80, description="a person's or company's name"), bounded(text.line, 80, 1)
]
Email = Annotated[
    str, Field(max_length=254, description="such as ada@example.com"), AfterValidator(text.email)
]
Password = Annotated[
    str,
    Field(min_length=8, max_length=256, description="8 to 256 characters"),
    AfterValidator(text.password),
]
Phone = Annotated[str, Field(max_length=40), bounded(text.line, 40, 1)]
Address = Annotated[str, Field(max_length=300), bounded(text.paragraph, 300, 1)]

Key = Annotated[
    str,
    Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$"),
]
ProductId = Annotated[Key, Field(description="a product_id, as the shop's lists show it")]
OrderId = Annotated[Key, Field(description="an order_id, as place_order and list_orders show it")]
IdempotencyKey = Annotated[
    Key,
    Field(description="a name for this very order: repeating the call with it orders only once"),
]
ProductName = Annotated[str, Field(max_length=120), bounded(text.line, 120, 1)]
Description = Annotated[str, Field(max_length=4000), bounded(text.paragraph, 4000)]
Amount = Annotated[
    str,
    BeforeValidator(_as_text),
    Field(max_length=24, description='such as "12.50", or "12.50 EUR"'),
]
Stock = Annotated[int, Field(ge=0, le=MOST_QUANTITY, description="how many there are to sell")]
Quantity = Annotated[int, Field(ge=1, le=1000, description="how many")]
Query = Annotated[
    str, Field(max_length=200, description="whole words that name or description must all have")
]
Page = Annotated[int, Field(ge=1, le=1000, description="which page, from 1")]
NewValue = Annotated[str, BeforeValidator(_as_text), Field(max_length=4000)]


class CartItem(BaseModel):
    """So many of a product."""

    product_id: ProductId
    quantity: Quantity = 1


class ProductInput(BaseModel):
    """A product to put on sale."""

    name: ProductName
    price: Amount
    quantity: Stock
    description: Description = ""
