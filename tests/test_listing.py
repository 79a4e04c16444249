"""What the gateway says of itself: pages, capabilities, both eras' members, changes."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest

from mcpcp.catalog import KINDS, Catalog, Kind, Offer, build
from mcpcp.jsonrpc import INVALID_PARAMS, RpcError, encode
from mcpcp.listing import PAGE, Shown, cacheable, capabilities, in_era, legacy_hello, page
from mcpcp.policy import Allowlist
from tests.test_catalog import offer, server

ALL = Allowlist.of({"*": ["*"]})


def catalog(version: int = 1, /, **offers: Offer) -> Catalog:
    return build(version, {name: server(name) for name in offers}, offers, set(offers))


def tools(count: int) -> Offer:
    return offer(*(f"t{n}" for n in range(count)))


def decoded(result: Any) -> Any:
    return json.loads(encode(result))


def pages(made: Catalog, kind: Kind = "tool") -> list[Any]:
    """Every page, as a client reads them."""
    found, cursor = [], None
    while True:
        result = decoded(page(made.view(ALL), kind, cursor, made.version))
        found.append(result)
        cursor = result.get("nextCursor")
        if cursor is None:
            return found


@pytest.mark.parametrize("count", [0, 1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE, 3 * PAGE + 1])
def test_the_pages_of_a_list_are_the_list(count: int) -> None:
    found = pages(catalog(a=tools(count)))
    names = [definition["name"] for one in found for definition in one["tools"]]
    assert names == [f"a_t{n}" for n in range(count)]
    assert all(len(one["tools"]) <= PAGE for one in found)
    assert len(found) == max(1, -(-count // PAGE))


def made_cursor(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "ä",
        5,
        True,
        [],
        {"a": 1},
        *map(made_cursor, ["", "1", ":", "a:b", "1:-1", "1:99999", "2:1000", "1:1000:0"]),
    ],
)
def test_a_cursor_that_we_did_not_make_or_of_another_list_is_refused(cursor: Any) -> None:
    made = catalog(1, a=tools(PAGE + 1))
    with pytest.raises(RpcError) as caught:
        page(made.view(ALL), "tool", cursor, made.version)
    assert caught.value.error["code"] == INVALID_PARAMS


def test_one_server_alone_keeps_capabilities_that_we_do_not_know() -> None:
    alone = catalog(a=Offer(capabilities={"xNew": {"deep": [1]}, "prompts": {}}))
    assert capabilities(alone.view(ALL), expecting=False) == {
        "xNew": {"deep": [1]},
        "prompts": {"listChanged": True},
        "tools": {"listChanged": True},
    }


def test_of_several_the_known_are_merged_and_the_unknown_left_out() -> None:
    first = Offer(capabilities={"xNew": {}, "resources": {"subscribe": True}})
    second = Offer(capabilities={"resources": {}, "logging": {}, "completions": {}})
    found = capabilities(catalog(a=first, b=second).view(ALL), expecting=False)
    assert found == {
        "tools": {"listChanged": True},
        "resources": {"subscribe": True, "listChanged": True},
        "logging": {},
        "completions": {},
    }


def test_what_may_still_come_is_promised() -> None:
    found = capabilities(catalog().view(ALL), expecting=True)
    assert found.keys() == {"tools", "prompts", "resources", "logging", "completions"}


@pytest.mark.parametrize(
    ("wanted", "answered"),
    [
        ("2024-11-05", "2024-11-05"),
        ("2025-06-18", "2025-06-18"),
        ("1999-01-01", "2025-11-25"),
        ("2026-07-28", "2025-11-25"),
        (None, "2025-11-25"),
        (["2025-06-18"], "2025-11-25"),
    ],
)
def test_a_version_is_agreed_on(wanted: Any, answered: str) -> None:
    hello = legacy_hello(catalog().view(ALL), {"protocolVersion": wanted}, expecting=False)
    assert hello["protocolVersion"] == answered


def test_a_modern_list_is_private_and_says_how_long_it_is_good() -> None:
    result = cacheable({"tools": []})
    assert (result["resultType"], result["ttlMs"]) == ("complete", 0)
    assert result["cacheScope"] == "private"


@pytest.mark.parametrize(
    ("method", "result", "modern", "expected"),
    [
        ("tools/call", {"content": []}, True, {"content": [], "resultType": "complete"}),
        ("tools/call", {"resultType": "task"}, True, {"resultType": "task"}),
        (
            "resources/read",
            {"contents": []},
            True,
            {"contents": [], "resultType": "complete", "ttlMs": 0, "cacheScope": "private"},
        ),
        (
            "resources/read",
            {"contents": [], "resultType": "complete", "ttlMs": 9, "cacheScope": "public", "x": 1},
            False,
            {"contents": [], "x": 1},
        ),
        ("tools/call", {"content": [], "ttlMs": 1}, False, {"content": [], "ttlMs": 1}),
        ("tools/call", ["no object"], True, ["no object"]),
    ],
)
def test_a_result_is_written_as_the_client_s_era_does(
    method: str, result: Any, modern: bool, expected: Any
) -> None:
    assert in_era(result, method, modern) == expected


def test_a_client_hears_of_its_own_view_s_changes_once() -> None:
    narrow = Allowlist.of({"a": ["t0"]})
    shown, wide = (
        Shown(catalog(1, a=tools(1)).view(narrow), KINDS),
        Shown(catalog(1, a=tools(1)).view(ALL), KINDS),
    )
    later = catalog(2, a=tools(2))
    assert shown.changes(later.view(narrow)) == []
    assert wide.changes(later.view(ALL)) == ["notifications/tools/list_changed"]
    assert wide.changes(later.view(ALL)) == []


def test_what_a_server_announces_is_passed_on_though_the_list_is_the_same() -> None:
    change = "notifications/prompts/list_changed"
    one, two = (replace(tools(1), announced={change: count}) for count in (1, 2))
    shown = Shown(catalog(1, a=one).view(ALL), KINDS)
    assert shown.changes(catalog(2, a=two).view(ALL)) == [change]


def test_a_client_hears_only_of_lists_that_it_has_seen() -> None:
    first, later = catalog(1, a=tools(1)), catalog(2, a=tools(2))
    shown = Shown(first.view(ALL))
    assert shown.changes(later.view(ALL)) == []
    shown.saw(first.view(ALL), "tool")
    assert shown.changes(later.view(ALL)) == ["notifications/tools/list_changed"]


def test_templates_that_nobody_had_asked_for_are_no_change() -> None:
    template = {"uriTemplate": "x://{y}", "name": "y"}
    unlisted = Offer(capabilities={"resources": {}})
    shown = Shown(catalog(1, a=unlisted).view(ALL), KINDS)
    assert shown.changes(catalog(2, a=replace(unlisted, templates=(template,))).view(ALL)) == []


def test_a_changed_template_is_a_changed_list_of_resources() -> None:
    before = Shown(catalog(1, a=Offer()).view(ALL), KINDS)
    template = {"uriTemplate": "x://{y}", "name": "y"}
    after = catalog(2, a=Offer(templates=(template,)))
    assert before.changes(after.view(ALL)) == ["notifications/resources/list_changed"]
