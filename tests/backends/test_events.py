"""Server-sent events, cut anywhere, with every line ending of the standard."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from mcpcp.backends.events import events
from mcpcp.backends.http import Response
from tests.backends.raw import PATIENCE

STREAM = (
    b": a comment\n"
    b"event: endpoint\ndata: /messages?id=1\n\n"
    b"data: one\ndata:two\ndata:  three\n\n"
    b"id: 7\nretry: 5\nunknown\n\n"
    b"event: message\ndata\n\n"
    b'data: {"a": "\xc3\xa4: b"}\n\n'
    b"event: ping\n\n"
    b"data: after an event without data\n\n"
    b"data: never finished\n"
)
EXPECTED = [
    ("endpoint", b"/messages?id=1"),
    ("message", b"one\ntwo\n three"),
    ("message", b""),
    ("message", b'{"a": "\xc3\xa4: b"}'),
    ("message", b"after an event without data"),
]
ENDINGS = (b"\n", b"\r\n", b"\r")


class Parts:
    """A response whose body comes in given pieces."""

    def __init__(self, parts: list[bytes]) -> None:
        self._parts = parts

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        for part in self._parts:
            yield part

    def close(self) -> None:
        pass


def parse(*parts: bytes) -> list[tuple[str, bytes]]:
    async def collect() -> list[tuple[str, bytes]]:
        return [found async for found in events(cast(Response, Parts(list(parts))))]

    return asyncio.run(collect())


def test_the_stream_is_understood_with_every_line_ending() -> None:
    for ending in ENDINGS:
        assert parse(STREAM.replace(b"\n", ending)) == EXPECTED


def test_it_is_understood_when_cut_at_any_byte() -> None:
    async def check() -> None:
        for ending in ENDINGS:
            text = STREAM.replace(b"\n", ending)
            for cut in range(len(text) + 1):
                response = cast(Response, Parts([text[:cut], text[cut:]]))
                assert [e async for e in events(response)] == EXPECTED, (ending, cut)

    asyncio.run(check())


def test_an_event_may_end_each_of_its_lines_in_its_own_way() -> None:
    for first, second, third in itertools.product((*ENDINGS, b""), repeat=3):
        event = b"event: message%bdata: {}%b%b" % (first, second, third)
        lines = event.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        whole = lines == [b"event: message", b"data: {}", b"", b""]
        expected = [("message", b"{}")] if whole else []
        assert parse(event + b":") == expected, event


def test_it_is_understood_byte_by_byte() -> None:
    for ending in ENDINGS:
        text = STREAM.replace(b"\n", ending)
        assert parse(*(text[n : n + 1] for n in range(len(text)))) == EXPECTED


@given(st.lists(st.sampled_from(ENDINGS), min_size=22, max_size=22), st.data())
def test_line_endings_can_change_within_a_stream(mixed: list[bytes], data: st.DataObject) -> None:
    lines = STREAM.split(b"\n")
    # a bare CR before an LF would be one ending, not two
    for n in range(1, len(mixed)):
        if mixed[n - 1] == b"\r" and mixed[n] == b"\n" and not lines[n]:
            mixed[n] = b"\r"
    text = b"".join(line + ending for line, ending in zip(lines, mixed, strict=False))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    edges = [0, *cuts, len(text)]
    parts = [text[a:b] for a, b in itertools.pairwise(edges)]
    assert parse(*parts) == EXPECTED


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=4))
def test_cutting_never_changes_what_is_understood(text: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(c, len(text)) for c in cuts), len(text)]
    parts = [text[a:b] for a, b in itertools.pairwise(edges)]
    assert parse(*parts) == parse(text)


def test_an_event_is_told_when_its_blank_line_has_come_not_later() -> None:
    """With CR LF endings too: an answer must not wait for the next event."""

    async def check() -> None:
        for ending in (b"\n", b"\r\n"):
            never = asyncio.Event()

            class Open(Parts):
                async def __aiter__(self) -> AsyncGenerator[bytes, None]:
                    yield b"data: now" + ending + ending  # noqa: B023
                    await never.wait()  # noqa: B023

            found = events(cast(Response, Open([])))
            async with asyncio.timeout(PATIENCE):
                assert await anext(found) == ("message", b"now")
            never.set()

    asyncio.run(check())
