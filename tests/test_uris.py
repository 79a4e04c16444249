"""URIs of two servers never meet: what is claimed twice is told apart, everywhere it appears."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpcp.uris import Rewriter, exposed_by, exposed_uri, fits, overlap

NAMES = st.text("abcdefgh0123456789-_", min_size=1, max_size=12)
URIS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["uri", "resource", "content", "contents", "messages", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("template", "uri", "expected"),
    [
        ("test://{id}", "test://5", True),
        ("test://{id}", "test://", True),
        ("test://{id}", "test://a/b", False),
        ("test://{id}/data", "test://5/data", True),
        ("test://{id}/data", "test://5/other", False),
        ("test://{id}/data", "Test://5/data", False),
        ("file:///{+path}", "file:///a/b/c.txt", True),
        ("file://{/path*}", "file:///a/b/c.txt", True),
        ("db://t{?q,limit}", "db://t?q=1&limit=2", True),
        ("db://t{?q,limit}", "db://t", True),
        ("db://t{?q}", "db://tables", False),
        ("a.b://{x}", "aXb://1", False),
        ("test://{a}-{b}", "test://1-2", True),
        ("test://{a}-{b}", "test://12", False),
        ("test://plain", "test://plain", True),
        ("test://(", "test://(", True),
        ("test://{open", "test://{open", True),
    ],
)
def test_an_expansion_fits_its_template(template: str, uri: str, expected: bool) -> None:
    assert fits(template, uri) is expected


@given(URIS, URIS)
def test_whatever_is_called_a_template_breaks_nothing(template: str, uri: str) -> None:
    assert fits(template, uri) in (True, False)
    if "{" not in template:
        assert fits(template, uri) == (template == uri)


@given(NAMES, NAMES, URIS, URIS)
def test_exposed_uris_of_different_servers_or_resources_are_different(
    one: str, other: str, first: str, second: str
) -> None:
    same = exposed_uri(one, first) == exposed_uri(other, second)
    assert same == ((one, first) == (other, second))
    assert exposed_uri(one, first).removeprefix(exposed_uri(one, "")) == first


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("x://{id}", "x://{name}", True),
        ("x://{id}", "x://plain", True),
        ("x://{id}", "x://a/b", False),
        ("x://{id}", "y://{id}", False),
        ("x://a/{id}", "x://{kind}/b", True),
        ("x://a/{id}", "x://b/{id}", False),
        ("x://{id}/data", "x://{id}/text", False),
        ("x://{+path}", "x://{a}/{b}", True),
        ("file:///{path}", "file://{/path*}", True),
        ("x://t{?q}", "x://tables", False),
        ("x://t{?q}", "x://t", True),
        ("x://t{?q}", "x://{id}{?page}", True),
        ("x://t{&q}", "x://t{?q}", True),
        ("x://t?{q}", "x://t{?q}", True),
        ("x://{a}b", "x://a{b}", True),
        ("x://{a}b", "x://{a}c", False),
        ("{+everything}", "x://{a}", True),
        ("x" * 501, "x" * 501, True),
        ("{x}" * 400, "{y}" * 400, False),  # too long to be looked at
    ],
)
def test_templates_overlap_where_there_is_a_uri_of_both(
    one: str, other: str, expected: bool
) -> None:
    assert overlap(one, other) is overlap(other, one) is expected


TEMPLATES = st.lists(
    st.sampled_from(["a", "b", "/", "?", "{x}", "{+x}", "{?x}", "{&x}", "{/x*}"]), max_size=5
).map("".join)


@given(TEMPLATES, TEMPLATES, st.text("ab/?&", max_size=5))
def test_what_fits_two_templates_is_their_overlap(one: str, other: str, uri: str) -> None:
    if fits(one, uri) and fits(other, uri):
        assert overlap(one, other)


@given(NAMES, URIS)
def test_an_exposed_uri_says_whose_it_is(server: str, uri: str) -> None:
    assert exposed_by(exposed_uri(server, uri)) == (server, uri)


def test_no_other_uri_says_so() -> None:
    assert [exposed_by(uri) for uri in ("", "test://a/b", "mcpcp://", "mcpcp:/a/b")] == [None] * 4


CLASHING = Rewriter(
    "b", ["test://a"], ["test://t/{id}"], ["test://t/{id}"], {"test://a": "a", "test://c": "a"}
)
THEIRS = "mcpcp://b/"


@pytest.mark.parametrize("uri", ["test://a", "test://t/5", "test://t/"])
def test_a_claimed_uri_is_rewritten(uri: str) -> None:
    assert CLASHING.uri(uri) == THEIRS + uri


@pytest.mark.parametrize("uri", ["test://b", "test://t/5/6", "", "test://A", "test://c"])
def test_any_other_stays(uri: str) -> None:
    assert CLASHING.uri(uri) == uri


def test_links_and_contents_are_rewritten_and_texts_are_not() -> None:
    link = {"type": "resource_link", "uri": "test://a", "name": "test://a", "xUnknown": 1}
    embedded = {"type": "resource", "resource": {"uri": "test://t/1", "text": "test://a"}}
    text = {"type": "text", "text": "see test://a"}
    messages = [{"role": "user", "content": embedded}]
    result = {
        "content": [link, embedded, text],
        "contents": [{"uri": "test://a", "blob": ""}],
        "messages": messages,
        "structuredContent": {"uri": "test://a"},
    }
    before = copy.deepcopy(result)
    moved = {**embedded, "resource": {"uri": THEIRS + "test://t/1", "text": "test://a"}}
    assert CLASHING.result(result) == {
        "content": [{**link, "uri": THEIRS + "test://a"}, moved, text],
        "contents": [{"uri": THEIRS + "test://a", "blob": ""}],
        "messages": [{"role": "user", "content": moved}],
        "structuredContent": {"uri": "test://a"},
    }
    assert result == before, "results are shared: they are never changed in place"


def test_where_nothing_clashes_the_result_is_the_same_object() -> None:
    result = {"content": [{"uri": "test://x"}, {"resource": {"uri": "test://x"}}, "text"]}
    assert CLASHING.result(result) is result
    assert not Rewriter("a", ["test://a"], ["test://{x}"], [], {"test://a": "a"})
    assert Rewriter("b", ["test://a"], [], [], {"test://a": "a"})
    assert Rewriter("b", [], ["test://{x}"], [], {"test://a": "a"})


@given(JSON)
def test_whatever_a_server_answers_is_rewritten_without_harm(result: Any) -> None:
    before = copy.deepcopy(result)
    CLASHING.result(result)
    assert result == before
