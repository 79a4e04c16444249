"""What a file is taken for, whatever it is called, and which pictures are shown."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from servers.sandboxing import media
from servers.sandboxing.answers import content
from servers.sandboxing.outcome import File, Outcome


def picture(kind: str, width: int = 30, height: int = 20, **options: Any) -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(made, kind, **options)
    return made.getvalue()


def png(width: int, height: int, pixels: bytes = b"") -> bytes:
    """Well formed, with the pixels that are given in place of those that it claims."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("GIF", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True, "comment": b"\xff\xc0 no frame"}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"exif": b"Exif\0\0more"}),
    ],
)
def test_a_picture_is_known_with_its_size(kind: str, options: dict[str, Any]) -> None:
    data = picture(kind, **options)
    found = media.picture(data)
    assert found == media.Picture(f"image/{kind.lower()}", 30, 20) and found.can_be_shown
    assert media.media_type("notes.txt", data) == f"image/{kind.lower()}"


@pytest.mark.parametrize(
    "data",
    [
        b"\x89PNG\r\n\x1a\n<script>",
        b"\xff\xd8\xff",
        b"GIF89a",
        b"RIFF\x04\0\0\0WEBP",
        *(picture(kind)[:-4] for kind in ("PNG", "JPEG", "GIF", "WEBP")),
        *(picture(kind)[:12] for kind in ("PNG", "JPEG", "GIF", "WEBP")),
        png(1, 1).replace(b"IHDR\0", b"IHDR\1"),
    ],
)
def test_what_only_begins_as_a_picture_is_none(data: bytes) -> None:
    assert not media.media_type("plot.png", data).startswith("image/")


@given(
    st.sampled_from([b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\xff\xd8\xff", b"GIF89a", b""]),
    st.binary(),
)
def test_any_bytes_are_judged(head: bytes, rest: bytes) -> None:
    assert media.media_type("x", head + rest)


def test_a_picture_that_is_small_as_a_file_and_huge_when_shown_is_not_shown() -> None:
    bomb, plot = png(60_000, 60_000, bytes(1 << 20)), png(30, 20, bytes(100))
    files = [File(name, len(d), "image/png", d) for name, d in (("bomb", bomb), ("plot", plot))]
    shown = [block for block in content(Outcome("ok", files=tuple(files))) if block.type == "image"]
    assert len(shown) == 1
