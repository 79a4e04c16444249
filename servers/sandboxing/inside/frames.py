"""Frames: a kind of one byte, a length of four, and as many bytes.

Above: `init`, `maker` and `porter` inside; `transcript` and `link` outside, who believe none of it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

# both ways: a file's description in JSON, and its content in as many pieces as it takes
FILE, DATA = b"F", b"D"
# to a sandbox: prepare, once the host has put it where it is counted; files, of which the one
# without a path is the request; complete, after which it says that it is ready; then go, and not
# before: as long as the host has not said so, it knows that no code has begun; then perhaps stop
PREPARE, COMPLETE, GO, STOP = b"P", b"C", b"G", b"S"
TO_SANDBOX = PREPARE + FILE + DATA + COMPLETE + GO + STOP
# from a sandbox: up or not; ready to go; output; files; paths that are gone; the report, the last
HELLO, BROKEN, READY, STDOUT, STDERR, GONE, REPORT = b"H", b"B", b"R", b"1", b"2", b"X", b"E"
FROM_SANDBOX = HELLO + BROKEN + READY + STDOUT + STDERR + FILE + DATA + GONE + REPORT

# around those, where one stream carries one sandbox after the other: to the porter a plan, the
# first; words for the sandbox that is there; and next: end it, and have another one made. From the
# porter the sandbox's words; next, when nothing is left of the one before; and that it has ended by
# itself, with what is known of that in JSON
PLAN, THROUGH, NEXT, ENDED = b"L", b"T", b"N", b"Z"
TO_PORTER = PLAN + THROUGH + NEXT
FROM_PORTER = THROUGH + NEXT + ENDED

LONGEST = 1 << 20

_HEAD = struct.Struct(">cI")


class BadFrame(Exception):
    """What came is not a frame, so nothing after it can be understood."""


def encode(kind: bytes, payload: bytes = b"") -> bytes:
    """One frame; the payload is at most LONGEST."""
    return _HEAD.pack(kind, len(payload)) + payload


def encode_file(head: bytes, content: bytes) -> Iterator[bytes]:
    """A file as frames; `head` describes it, in JSON."""
    yield encode(FILE, head)
    for start in range(0, len(content), LONGEST):
        yield encode(DATA, content[start : start + LONGEST])


class Decoder:
    """Puts frames together from bytes that come in any pieces."""

    def __init__(self, kinds: bytes) -> None:
        """`kinds` are the bytes that may begin a frame."""
        self._kinds = kinds
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """The frames that are complete now; raises BadFrame."""
        self._buffer += data
        found = []
        start = 0
        while len(self._buffer) - start >= _HEAD.size:
            kind, length = _HEAD.unpack_from(self._buffer, start)
            if kind not in self._kinds or length > LONGEST:
                raise BadFrame(f"a frame of kind {kind!r} and {length} bytes")
            end = start + _HEAD.size + length
            if len(self._buffer) < end:
                break
            found.append((kind, bytes(self._buffer[start + _HEAD.size : end])))
            start = end
        del self._buffer[:start]
        return found
