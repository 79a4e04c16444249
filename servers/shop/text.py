"""Texts from outside: normalized, bounded, without what can't be seen; never used as a pattern."""

from __future__ import annotations

import re
import unicodedata

MOST_WORDS = 8

_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_EMAIL = re.compile(r"[a-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63}){1,8}")
_WORD = re.compile(r"\w+")


def line(text: str) -> str:
    """One line, NFKC, single spaces; ValueError where it is empty or hides something."""
    clean = " ".join(unicodedata.normalize("NFKC", text).split())
    if not clean:
        raise ValueError("must not be empty")
    _check_visible(clean, allowed="")
    return clean


def paragraph(text: str) -> str:
    """Like `line`, but it may be empty and have line breaks."""
    clean = unicodedata.normalize("NFKC", text).replace("\r\n", "\n").strip()
    _check_visible(clean, allowed="\n\t")
    return clean


def _check_visible(text: str, allowed: str) -> None:
    for character in text:
        if unicodedata.category(character) in _INVISIBLE and character not in allowed:
            raise ValueError(f"must not hold invisible characters, such as {character!a}")


def email(text: str) -> str:
    """Lower case and plain ASCII, so that no look-alike letter makes a second account of one."""
    clean = text.strip().lower()
    if len(clean) > 254 or not _EMAIL.fullmatch(clean):
        raise ValueError("must be an e-mail address in plain ASCII, such as ada@example.com")
    return clean


def password(text: str) -> str:
    """As it was typed, in one Unicode form: keyboards differ in how they write an accent."""
    return unicodedata.normalize("NFKC", text)


def words(text: str) -> list[str]:
    """The different words of a text as a search compares them, in their order."""
    return list(dict.fromkeys(_WORD.findall(unicodedata.normalize("NFKC", text).casefold())))
