"""What a file is, by what it begins with: a name is the word of whoever wrote it."""

from __future__ import annotations

import mimetypes

_TEXT = ("text/", "application/json", "application/xml", "application/javascript")


def media_type(path: str, data: bytes) -> str:
    """An IANA media type; `image/...` only for what really is a PNG, JPEG, GIF or WebP."""
    image = _image(data)
    if image is not None:
        return image
    guessed = mimetypes.guess_type(path)[0] or ""
    if guessed.startswith(_TEXT):
        return guessed
    return "text/plain" if _is_text(data[:4096]) else "application/octet-stream"


def _image(data: bytes) -> str | None:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "image/webp"
    return None


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as e:
        return e.end >= len(data) > 4000 and b"\0" not in data  # cut in the middle of a character
    return b"\0" not in data
