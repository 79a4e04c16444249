"""Results that pass as they were written: what they may be, and what must be read as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcpcp import listing, verbatim
from mcpcp.errors import ProtocolError
from mcpcp.jsonrpc import PARSE_ERROR, RpcError, decode, decode_reply, encode, response
from mcpcp.uris import Rewriter
from mcpcp.verbatim import Verbatim, failed, read_answer, whole

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
RESULTS = st.dictionaries(st.text(), VALUES, min_size=1, max_size=5)
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
    assert isinstance(answer["result"], Verbatim)
    assert {**answer, "result": whole(answer["result"])} == decode(envelope % RAW)
    mine = encode(response("mine", answer["result"]))
    assert mine == b'{"jsonrpc":"2.0","id":"mine","result":' + RAW + b"}"


def result_of(text: bytes) -> Any:
    """What the reader makes of a result."""
    return decode_reply(ENVELOPES[0] % text)["result"]


def test_what_does_not_know_results_that_pass_can_neither_change_nor_write_them() -> None:
    result = result_of(b'{"a": 1}')
    with pytest.raises(TypeError):
        dict(result)
    with pytest.raises(TypeError):
        orjson.dumps(result)


@pytest.mark.parametrize("beside", [b"", b',"content":"\xc3\xa4"', b',"content":' + b"[" * 150])
@pytest.mark.parametrize(
    ("member", "says_so"),
    [
        (b'"isError":true', True),
        (b'"isErr\\u006fr":true', True),
        (b'"isError":false,"isError":true', True),
        (b'"isError":true,"isError":false', False),
        (b'"isError":0', False),
        (b'"iserror":true', False),
        (b'"content":{"isError":true}', False),
    ],
)
def test_a_tool_that_failed_is_known_by_its_result(
    member: bytes, says_so: bool, beside: bytes
) -> None:
    text = b"{%b%b%b}" % (member, beside, b"]" * beside.count(b"["))
    result = result_of(text)
    assert isinstance(result, Verbatim)
    assert failed(result) is says_so
    assert failed(orjson.loads(text)) is says_so


@pytest.mark.parametrize("modern_client", [True, False])
@pytest.mark.parametrize("method", ["tools/call", "resources/read"])
@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1}',
        b'{ "a":"\xc3\xa4"}',
        b'{"a":1,"resultType":"complete"}',
        b'{"resultType":"complete","ttlMs":5,"cacheScope":"public","a":1}',
        b'{"a":1,"cacheScope":"public"}',
        b'{"a":1,"ttlMs":9}',
        b'{"a":1,"resultType":"input_required","requestState":"s"}',
        b'{"a":1,"resultType":null}',
    ],
)
def test_a_result_in_the_other_era_says_the_same_whether_it_was_read_or_passes(
    text: bytes, method: str, modern_client: bool
) -> None:
    passed = listing.in_era(result_of(text), method, modern_client)
    sent = encode(response(1, passed))
    assert orjson.loads(sent)["result"] == listing.in_era(orjson.loads(text), method, modern_client)
    assert whole(passed) == orjson.loads(sent)["result"]
    assert sent.count(b"resultType") <= 1
    assert sent.count(b"cacheScope") <= 1


def test_a_legacy_result_goes_to_a_modern_client_with_its_own_bytes() -> None:
    sent = encode(response(1, listing.in_era(result_of(b'{ "a": 1.50}'), "tools/call", True)))
    assert sent == b'{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete", "a": 1.50}}'


def test_only_a_complete_result_passes() -> None:
    asking = result_of(b'{"resultType":"input_required","requestState":"s","inputRequests":{}}')
    assert asking == {"resultType": "input_required", "requestState": "s", "inputRequests": {}}


def test_uris_are_rewritten_in_results_that_would_pass() -> None:
    result = result_of(b'{"contents":[{"uri":"file:///a","text":"x"}]}')
    assert Rewriter("mcp1", (), ()).result(result) is result
    rewritten = Rewriter("mcp1", ("file:///a",), ()).result(result)
    assert rewritten["contents"][0]["uri"] != "file:///a"
    assert rewritten["contents"][0]["text"] == "x"


def test_a_number_that_no_float_holds_passes_and_is_refused_where_it_has_to_be_read() -> None:
    result = result_of(b'{"a":1e999}')
    assert encode(response(1, result)) == b'{"jsonrpc":"2.0","id":1,"result":{"a":1e999}}'
    with pytest.raises(ProtocolError, match="not readable"):
        whole(result)


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
        b'{"jsonrpc":"2.0","id":7,"result":{}}',
        b'{"jsonrpc":"2.0","id":7,"result":{   }}',
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
    assert {**answer, "result": whole(answer["result"])} == {
        "jsonrpc": "2.0",
        "id": 7,
        "result": result,
    }
    sent = encode(response(8, answer["result"]))
    assert orjson.loads(sent) == {"jsonrpc": "2.0", "id": 8, "result": result}
    assert b"\n" not in sent


@given(st.binary(max_size=60), st.sampled_from(ENVELOPES))
def test_nothing_passes_that_a_strict_reader_would_refuse(piece: bytes, envelope: bytes) -> None:
    raw = envelope % (b'{"a":' + piece + b"}")
    if (answer := read_answer(raw)) is not None:
        assert orjson.loads(raw)["result"] == whole(answer["result"])


NEARLY: tuple[bytes, ...] = (
    *(b"{", b"}", b"[", b"]", b",", b":", b'"', b'"a"', b"\\", b"\\u", b"d800", b"dc00"),
    *(
        b"\\ud83d",
        b"\\ude00",
        b"0",
        b"-",
        b".",
        b"1e",
        b"1E+",
        b"true",
        b"nul",
        b"NaN",
        b"x",
        b"/*",
    ),
    *(b" ", b"\t", b"\x00", b"\x1f", b"\x7f", b"\xc3", b"\xa4", b"\xed\xa0\x80", b"\xef\xbb\xbf"),
)


@given(st.lists(st.sampled_from(NEARLY), max_size=12), st.sampled_from(ENVELOPES))
@settings(max_examples=1000)
def test_nothing_that_is_nearly_json_passes(tokens: list[bytes], envelope: bytes) -> None:
    raw = envelope % (b'{"a":' + b"".join(tokens) + b"}")
    if (answer := read_answer(raw)) is not None:
        assert orjson.loads(raw)["result"] == whole(answer["result"])
