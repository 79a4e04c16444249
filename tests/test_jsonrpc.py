"""Messages as raw dicts: what can be read, and what comes out as it went in."""

from __future__ import annotations

from typing import Any

import pytest

from mcpcp.jsonrpc import PARSE_ERROR, RpcError, decode, decode_reply, encode

DEEPEST = 200
"""Levels that pass, as many as the issue's faults have."""


def test_what_is_no_json_is_a_parse_error() -> None:
    for text in (b"{", b"", b"nul", b"\xff", b'{"a": NaN}', b"[" * 100_000):
        with pytest.raises(RpcError) as caught:
            decode(text)
        assert caught.value.error["code"] == PARSE_ERROR


@pytest.mark.parametrize("opening, closing", [(b"[", b"]"), (b'{"a":', b"}")])
@pytest.mark.parametrize("read", [decode, decode_reply])
def test_what_is_nested_deep_passes_as_far_as_it_can_be_written(
    read: Any, opening: bytes, closing: bytes
) -> None:
    def nested(levels: int) -> bytes:
        return opening * levels + b"1" + closing * levels

    assert encode(read(nested(DEEPEST))) == nested(DEEPEST)
    for levels in (260, 2_000, 100_000):
        with pytest.raises(RpcError) as caught:
            read(nested(levels))
        assert caught.value.error["code"] == PARSE_ERROR


@pytest.mark.parametrize("text", [b'{"a":"[[[["}', b'{"a":"%b"}' % (b"[{" * 1000)])
def test_brackets_in_a_text_are_no_levels(text: bytes) -> None:
    assert encode(decode(text)) == text
