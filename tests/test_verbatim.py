"""Results that pass as they were written: what they may be, and what must be read as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpcp import verbatim
from mcpcp.jsonrpc import PARSE_ERROR, RpcError, decode, decode_reply, encode, response
from mcpcp.verbatim import Verbatim, read_answer

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
RESULTS = st.dictionaries(st.text(), VALUES, max_size=5)
RAW = b'{"content":[{"type":"text","text":"\\u00e4 \\/ 1"}],"n":1.50e1,"big":123456789012345678901}'
ENVELOPES = (
    b'{"jsonrpc":"2.0","id":7,"result":%b}',
    b'{"jsonrpc": "2.0", "id": 7, "result": %b}',
    b' { "jsonrpc" : "2.0" , "id" : 7 , "result" : %b}\r\n',
    b'{"result":%b,"jsonrpc":"2.0","id":7}',
    b'{\n "result": %b,\n "jsonrpc": "2.0",\n "id": 7\n}\n',
)


@pytest.fixture(scope="module", autouse=True)
def long() -> Iterator[None]:
    """Here everything is long enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verbatim, "LONG", 0)
        yield


@pytest.mark.parametrize("envelope", ENVELOPES)
def test_a_result_goes_out_byte_for_byte_as_it_came(envelope: bytes) -> None:
    answer = decode_reply(envelope % RAW)
    assert answer == decode(envelope % RAW)
    assert isinstance(answer["result"], Verbatim)
    mine = encode(response("mine", answer["result"]))
    assert mine == b'{"jsonrpc":"2.0","id":"mine","result":' + RAW + b"}"


def test_a_result_that_was_changed_is_written_anew() -> None:
    result = decode_reply(ENVELOPES[0] % b'{"a": 1}')["result"]
    assert (
        encode(response(1, {**result, "b": 2}))
        == b'{"jsonrpc":"2.0","id":1,"result":{"a":1,"b":2}}'
    )


@pytest.mark.parametrize(
    "raw",
    [
        b'{"jsonrpc":"2.0","id":7,"result":{"a":1},"id":8}',
        b'{"jsonrpc":"2.0","id":7,"result":{"a":1},"result":{"b":1}}',
        b'{"jsonrpc":"2.0","id":7,"result":{"a":1},"error":{}}',
        b'{"id":9,"jsonrpc":"2.0","id":7,"result":{"a":1}}',
        b'{"result":{"a":1},"id":8,"jsonrpc":"2.0","id":7}',
        b'{"result":{"a":1},"method":"x","jsonrpc":"2.0","id":7}',
        b'{"jsonrpc":"2.0","id":"7","result":{"a":1}}',
        b'{"jsonrpc":"2.0","id":7,"result":[1]}',
        b'{"jsonrpc":"2.0","id":7,"result":null}',
        b'{"jsonrpc":"2.0","method":"x","params":{"result":{}}}',
        b'{"jsonrpc":"2.0","id":7,"result":{"a":\n1}}',
        b'{"jsonrpc":"2.0","id":7,"result":{"a":\r1}}',
        b'{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":"no"}}',
    ],
)
def test_an_answer_in_any_other_form_is_read_as_any_message_is(raw: bytes) -> None:
    assert read_answer(raw) is None
    assert decode_reply(raw) == decode(raw)


@pytest.mark.parametrize(
    "result",
    [
        b"{",
        b'{"a":1}}',
        b'{"a":1} x',
        b'{"a":NaN}',
        b'{"a":01}',
        b'{"a":"\xff"}',
        b'{"a":"\\ud800"}',
        b'{"a":"\x01"}',
        b'{"a":' + b"[" * 260 + b"]" * 260 + b"}",
        b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"a":' + b'{"a":' * 260 + b"1" + b"}" * 260 + b"}",
    ],
)
@pytest.mark.parametrize("envelope", ENVELOPES)
def test_what_is_no_json_or_too_deep_is_refused_as_ever(envelope: bytes, result: bytes) -> None:
    for read in (decode, decode_reply):
        with pytest.raises(RpcError) as caught:
            read(envelope % result)
        assert caught.value.error["code"] == PARSE_ERROR


@given(RESULTS, st.sampled_from(ENVELOPES))
def test_what_passes_says_what_was_said(result: dict[str, Any], envelope: bytes) -> None:
    answer = decode_reply(envelope % orjson.dumps(result))
    assert answer == {"jsonrpc": "2.0", "id": 7, "result": result}
    sent = encode(response(8, answer["result"]))
    assert orjson.loads(sent) == {"jsonrpc": "2.0", "id": 8, "result": result}
    assert b"\n" not in sent


@given(st.binary(max_size=60), st.sampled_from(ENVELOPES))
def test_nothing_passes_that_a_strict_reader_would_refuse(piece: bytes, envelope: bytes) -> None:
    raw = envelope % (b'{"a":' + piece + b"}")
    if (answer := read_answer(raw)) is not None:
        assert orjson.loads(raw) == answer
