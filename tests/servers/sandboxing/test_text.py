"""Text that is safe to show."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servers.sandboxing.text import decode, sanitize


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\n\ttext", "plain\n\ttext"),
        ("Grüße, 世界 🎉 ñ", "Grüße, 世界 🎉 ñ"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07x\x1b]8;;http://a\x1b\\y", "xy"),
        ("\x1bP payload \x1b\\z", "z"),
        ("\x9b31mx", "x"),
        ("a\rb\r\nc", "a\nb\nc"),
        ("\u202eevil\u2066\u200b\ufeff", "evil"),
        ("a\U000e0041\U000e007fb\ufe0f", "ab"),
        ("a\u180b\u180f\u2065\ufff3b\U000e0101", "ab"),
        ("nul\x00bell\x07", "nulbell"),
        ("\x1b", ""),
    ],
)
def test_hidden_characters_are_gone(text: str, shown: str) -> None:
    assert sanitize(text) == shown


@given(st.text())
def test_nothing_hidden_is_left_in_any_text(text: str) -> None:
    for char in sanitize(text):
        assert char in "\n\t" or unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Co"}
    assert sanitize(sanitize(text)) == sanitize(text)


@given(st.binary())
def test_any_bytes_can_be_shown(data: bytes) -> None:
    decode(data).encode()
