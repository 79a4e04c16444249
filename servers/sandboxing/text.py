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
# Marks that draw nothing by themselves and are used to smuggle bytes past a reader.
_SMUGGLERS = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\ufe00-\ufe0f\U000e0000-\U000e0fff]"
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
