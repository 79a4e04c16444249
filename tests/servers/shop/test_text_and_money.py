"""What comes in as text: money, names, e-mail addresses, words."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servers.shop import money, text
from servers.shop.errors import Refused


@given(st.integers(1, money.MOST))
def test_an_amount_is_read_as_it_is_written(minor: int) -> None:
    assert money.to_minor(money.to_text(minor, "EUR"), "EUR") == minor


@pytest.mark.parametrize(
    ("written", "minor"),
    [("12", 1200), ("12.5", 1250), ("0.01", 1), ("12.50 eur", 1250), (" 7 ", 700)],
)
def test_the_ways_to_write_an_amount(written: str, minor: int) -> None:
    assert money.to_minor(written, "EUR") == minor


@pytest.mark.parametrize(
    "written",
    ["", "0", "0.00", "-1", "1.005", "1e3", "1,50", "NaN", "inf", "٣", "1 2", "10000000.01", "$gt"],
)
def test_what_is_no_amount_is_refused(written: str) -> None:
    with pytest.raises(Refused):
        money.to_minor(written, "EUR")


def test_another_currency_is_refused() -> None:
    with pytest.raises(Refused, match="takes EUR, not USD"):
        money.to_minor("5 USD", "EUR")


def test_a_debt_is_shown_with_its_sign() -> None:
    assert money.to_text(-105, "EUR") == "-1.05 EUR"


@given(st.text())
def test_a_line_is_stable_and_visible_or_refused(given_text: str) -> None:
    try:
        clean = text.line(given_text)
    except ValueError:
        return
    assert text.line(clean) == clean
    assert not any(unicodedata.category(c)[0] == "C" for c in clean)


@pytest.mark.parametrize(
    "hidden", ["a\u202eb", "a\u200bb", "\U000e0041", "a\x00b", "a\ud800", "", " \t "]
)
def test_what_hides_or_is_empty_is_no_line(hidden: str) -> None:
    with pytest.raises(ValueError, match="must not"):
        text.line(hidden)


def test_look_alikes_of_compatibility_become_what_they_look_like() -> None:
    assert text.line("\uff21da  \u2171") == "Ada ii"


@pytest.mark.parametrize("address", ["Ada@Example.COM", " ada@example.com "])
def test_an_address_has_one_spelling(address: str) -> None:
    assert text.email(address) == "ada@example.com"


@pytest.mark.parametrize(
    "address",
    ["ada", "ada@", "@b.c", "ada@b", "\u0430da@example.com", "a b@c.de", "a" * 300],
)
def test_what_is_no_plain_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="plain ASCII"):
        text.email(address)


def test_words_are_compared_without_case_and_order() -> None:
    assert text.words("Straße, GREEN green $where .*") == ["strasse", "green", "where"]
