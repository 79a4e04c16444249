"""Text that programs wrote, made safe to show to a model or on a terminal."""

from __future__ import annotations

import re
import unicodedata

_ESCAPES = re.compile(
    r"(?:\x1b\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # OSC: titles, links, the clipboard
    r"|(?:\x1b[PX^_]|[\x90\x98\x9e\x9f])[^\x1b\x9c]*(?:\x1b\\|\x9c)?"  # DCS, SOS, PM, APC
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"  # CSI: colours, cursor
    r"|\x1b[ -/]*[0-~]?"
)
_KEPT = frozenset("\n\t")
# Cc control, Cf format (bidi, zero width, tags), Cs surrogates, Co private use, Zl/Zp line tricks.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
# What else draws nothing by itself and is used to smuggle bytes past a reader: the rest of
# Unicode's Default_Ignorable_Code_Point, unassigned ones among it.
_SMUGGLERS = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8"
    "\U000e0000-\U000e0fff]"
)


def _visible(char: str) -> bool:
    return char in _KEPT or unicodedata.category(char) not in _HIDDEN


def sanitize(text: str) -> str:
    """`text` without terminal escapes, control, format, tag and private-use characters.

    Newlines and tabs stay, a carriage return that overwrites a line becomes a newline.
    """
    text = _ESCAPES.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    if text.isascii() and text.isprintable():
        return text
    return "".join(filter(_visible, _SMUGGLERS.sub("", text)))


def decode(data: bytes) -> str:
    """Bytes that claim to be UTF-8, safe to show; what is not valid becomes U+FFFD."""
    return sanitize(data.decode("utf-8", "replace"))
