"""Heads that a connection repeats: a request is known by its bytes only where they say the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpcp.frontends.heads import Head
from mcpcp.knownheads import KnownHead, known

BEFORE = b"POST /mcp HTTP/1.1\r\nhost: a\r\n"


def head_of(length: bytes = b"4", **more: bytes) -> Head:
    headers = {b"host": b"a", b"content-length": length}
    headers |= {name.encode(): value for name, value in more.items()}
    return Head(b"POST", b"/mcp?a=b", headers, keep_alive=True, chunks=True)


def known_from(data: bytes, length: bytes = b"4") -> KnownHead[Head] | None:
    return known(head_of(length), length, data, len(data))


def body_in(known_head: KnownHead[Head], data: bytes) -> bytes | None:
    begin = known_head.body_at(data, len(data))
    return data[begin:] if begin else None


def learned() -> KnownHead[Head]:
    found = known_from(BEFORE + b"Content-Length: 4\r\nx: y\r\n\r\nbody")
    assert found is not None
    return found


def test_the_same_head_is_known_whatever_the_length_of_its_body() -> None:
    start, end = BEFORE + b"Content-Length: ", b"\r\nx: y\r\n\r\n"
    assert body_in(learned(), start + b"4" + end + b"like") == b"like"
    assert body_in(learned(), start + b"11" + end + b"hello there") == b"hello there"
    assert body_in(learned(), start + b"0" + end) == b""


@pytest.mark.parametrize(
    "data",
    [
        b"",
        BEFORE,
        BEFORE + b"Content-Length: 5\r\nx: y\r\n\r\nbody",
        BEFORE + b"Content-Length: 4\r\nx: y\r\n\r\nbodyGET / HTTP/1.1\r\n\r\n",
        BEFORE + b"Content-Length: +4\r\nx: y\r\n\r\nbody",
        BEFORE + b"Content-Length: 4 \r\nx: y\r\n\r\nbody",
        BEFORE + b"Content-Length: \r\nx: y\r\n\r\nbody",
        BEFORE + b"Content-Length: 000000004\r\nx: y\r\n\r\nbody",
        BEFORE + b"Content-Length: \xb2\r\nx: y\r\n\r\nbody",
        BEFORE + b"Content-Length: 4\r\nx: z\r\n\r\nbody",
        BEFORE + b"content-length: 4\r\nx: y\r\n\r\nbody",
        BEFORE.replace(b"POST", b"PUT ") + b"Content-Length: 4\r\nx: y\r\n\r\nbody",
    ],
)
def test_anything_else_is_left_to_the_parser(data: bytes) -> None:
    assert body_in(learned(), data) is None


@pytest.mark.parametrize(
    ("data", "length"),
    [
        (BEFORE + b"\r\n", b"4"),
        (BEFORE + b"content-length: 4\r\n\r\nbod", b"4"),
        (BEFORE + b"content-length: 4\r\n\r\nbody and more", b"4"),
        (BEFORE + b"content-length: 4\r\n\r\nbody", b"5"),
        # The parser may take this for the end of the head; what follows is a body then.
        (BEFORE + b"content-length: 4\n\nx\r\ncontent-length: 4\r\n\r\nbody", b"4"),
    ],
)
def test_a_head_is_learned_only_from_one_whole_request(data: bytes, length: bytes) -> None:
    assert known_from(data, length) is None


@given(st.binary(max_size=300))
def test_what_is_known_is_the_request_that_was_sent(body: bytes) -> None:
    data = BEFORE + b"content-length: %d\r\n\r\n%b" % (len(body), body)
    found = known_from(data, b"%d" % len(body))
    assert found is not None
    assert body_in(found, data) == body


def test_a_header_is_text_without_white_space_around_it() -> None:
    head = head_of(origin=b" http://a \t")
    assert head.text(b"origin") == head.text(b"origin") == "http://a"
    assert head.text(b"x-other") is None
    assert (head.method, head.path, head.query) == ("POST", "/mcp", "a=b")


@pytest.mark.parametrize(
    ("header", "token"),
    [(b"Bearer abc", "abc"), (b" bearer  abc ", "abc"), (b"Basic abc", ""), (b"", "")],
)
def test_the_token_is_what_follows_bearer(header: bytes, token: str) -> None:
    assert head_of(authorization=header).bearer == token
    assert head_of().bearer is None
