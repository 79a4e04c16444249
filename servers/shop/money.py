"""Money: whole minor units inside, a decimal text with its currency at the edge."""

from __future__ import annotations

import re
from decimal import Decimal

from servers.shop.errors import Refused

MINOR_DIGITS = 2
MOST = 10**9
"""The largest price or deposit, in minor units."""

_AMOUNT = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,2})?)(?:\s+([A-Za-z]{3}))?", re.ASCII)
_CURRENCY = re.compile(r"[A-Z]{3}", re.ASCII)


def check_currency(code: str) -> str:
    """`code` itself; raises ValueError where it is not three capital letters."""
    if not _CURRENCY.fullmatch(code):
        raise ValueError(f"{code!r} is no currency: it must be three capital letters, such as EUR")
    return code


def to_minor(text: str, currency: str) -> int:
    """Minor units of "12.50" or "12.50 EUR"; Refused for anything else, zero and too much."""
    match = _AMOUNT.fullmatch(text.strip())
    if match is None:
        raise Refused(
            f'an amount is written like "12.50 {currency}", with at most {MINOR_DIGITS} decimals'
        )
    if match[2] and match[2].upper() != currency:
        raise Refused(f"this shop takes {currency}, not {match[2].upper()}")
    minor = int(Decimal(match[1]).scaleb(MINOR_DIGITS))
    if not 0 < minor <= MOST:
        raise Refused(f"an amount is more than zero and at most {to_text(MOST, currency)}")
    return minor


def to_text(minor: int, currency: str) -> str:
    """As people write it: "12.50 EUR"."""
    sign = "-" if minor < 0 else ""
    whole, part = divmod(abs(minor), 10**MINOR_DIGITS)
    return f"{sign}{whole}.{part:0{MINOR_DIGITS}d} {currency}"
