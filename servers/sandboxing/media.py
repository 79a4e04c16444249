"""What a file is, by what it holds: a name is the word of whoever wrote it."""

from __future__ import annotations

import mimetypes
import struct
import zlib
from dataclasses import dataclass

_TEXT = ("text/", "application/json", "application/xml", "application/javascript")
_LONGEST_SIDE = 8000
"""What models take; who shows a larger picture needs memory for it, however small the file is."""

_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_NO_LENGTH = frozenset((0x01, *range(0xD0, 0xD8)))
# of JPEG, the segments that begin a frame: SOF0 to SOF15 but for DHT, JPG and DAC
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture's format, by its IANA media type, and its size in pixels."""

    media_type: str
    width: int
    height: int

    @property
    def can_be_shown(self) -> bool:
        """Whether a client can be expected to take it."""
        return 0 < self.width <= _LONGEST_SIDE and 0 < self.height <= _LONGEST_SIDE


def media_type(path: str, data: bytes) -> str:
    """An IANA media type; `image/...` only for what really is a PNG, JPEG, GIF or WebP."""
    found = picture(data)
    if found is not None:
        return found.media_type
    guessed = mimetypes.guess_type(path)[0] or ""
    if guessed.startswith(_TEXT):
        return guessed
    return "text/plain" if _is_text(data[:4096]) else "application/octet-stream"


def picture(data: bytes) -> Picture | None:
    """The picture in a file that begins and ends as one; what lies between is not looked at."""
    try:
        return _png(data) or _jpeg(data) or _gif(data) or _webp(data)
    except (struct.error, IndexError):  # it ends in the middle of its head
        return None


def _png(data: bytes) -> Picture | None:
    if not (data.startswith(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR") and data.endswith(_PNG_END)):
        return None
    width, height, crc = struct.unpack_from(">II5xI", data, 16)
    return Picture("image/png", width, height) if zlib.crc32(data[12:29]) == crc else None


def _jpeg(data: bytes) -> Picture | None:
    """The size stands in the frame's segment, which others come before."""
    at = 2
    if not (data.startswith(b"\xff\xd8\xff") and data.endswith(b"\xff\xd9")):
        return None
    while data[at] == 0xFF:
        kind = data[at + 1]
        if kind in _FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return Picture("image/jpeg", width, height)
        if kind == 0xFF:  # filler
            at += 1
        else:
            length = 0 if kind in _NO_LENGTH else struct.unpack_from(">H", data, at + 2)[0]
            at += 2 + length
    return None


def _gif(data: bytes) -> Picture | None:
    if not (data.startswith((b"GIF87a", b"GIF89a")) and data.endswith(b";")):
        return None
    return Picture("image/gif", *struct.unpack_from("<HH", data, 6))


def _webp(data: bytes) -> Picture | None:
    if not (data.startswith(b"RIFF") and data[8:12] == b"WEBP"):
        return None
    if struct.unpack_from("<I", data, 4)[0] + 8 != len(data):
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        return None
    return Picture("image/webp", width, height)


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as e:
        return e.end >= len(data) > 4000 and b"\0" not in data  # cut in the middle of a character
    return b"\0" not in data
