"""The catalog: what is on offer, who holds which name, and what an agent sees of it."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from mcpcp.catalog import Catalog, Offer, build, merged
from mcpcp.config import ServerConfig, ToolRules
from mcpcp.names import ToolName
from mcpcp.policy import Allowlist
from mcpcp.profiles import BASE, Profile, capabilities_of, profile_of

EVERYTHING = Allowlist.of({"*": ["*"]})


def server(name: str, prefix: str | None = None, **rules: Any) -> ServerConfig:
    return ServerConfig(
        name=name,
        transport="stdio",
        command="true",
        prefix=name if prefix is None else prefix,
        tools=ToolRules(**rules),
    )


def offer(*tools: str, instructions: str | None = None) -> Offer:
    return Offer(
        tuple({"name": tool, "inputSchema": {}} for tool in tools), instructions=instructions
    )


def catalog(servers: list[ServerConfig], available: str | None = None, **offers: Offer) -> Catalog:
    names = [s.name for s in servers] if available is None else available.split()
    return build(1, {s.name: s for s in servers}, offers, names)


def exposed(made: Catalog, allow: Allowlist = EVERYTHING) -> list[str]:
    return [tool["name"] for tool in made.view(allow).listings["tool"].definitions]


def test_tools_appear_under_their_server_s_prefix_in_the_config_s_order() -> None:
    made = catalog([server("b"), server("a")], a=offer("x"), b=offer("z", "y"))
    assert exposed(made) == ["b_z", "b_y", "a_x"]
    assert made.entries["tool"]["b_y"].name == ToolName("b", "y")


def test_an_empty_prefix_leaves_names_as_they_are() -> None:
    assert exposed(catalog([server("a", "")], a=offer("echo"))) == ["echo"]


def test_a_definition_changes_in_nothing_but_its_name() -> None:
    given = {"name": "x", "description": "d", "inputSchema": {"$ref": "#"}, "x-unknown": [1]}
    made = catalog([server("a")], a=Offer((given,)))
    assert made.entries["tool"]["a_x"].definition == {**given, "name": "a_x"}
    assert given["name"] == "x"


def test_a_renamed_tool_is_found_by_its_new_name_only_and_forwarded_by_its_own() -> None:
    made = catalog([server("a", rename={"x": "say"})], a=offer("x", "y"))
    assert exposed(made) == ["a_say", "a_y"]
    assert made.entries["tool"]["a_say"].name == ToolName("a", "x")


def test_a_tool_that_the_config_describes_keeps_the_rest_of_its_definition() -> None:
    given: dict[str, Any] = {"name": "x", "description": "Theirs.", "inputSchema": {}, "n": 1}
    made = catalog(
        [server("a", describe={"x": "Ours.", "say": "nobody's"}, rename={"x": "say"})],
        a=Offer((given, {"name": "y", "description": "Theirs too."})),
    )
    assert made.entries["tool"]["a_say"].definition == {
        **given,
        "name": "a_say",
        "description": "Ours.",
    }
    assert made.entries["tool"]["a_y"].definition["description"] == "Theirs too."
    assert given["description"] == "Theirs."


def test_allow_and_deny_decide_by_the_server_s_own_names_and_deny_wins() -> None:
    rules: dict[str, Any] = {
        "allow": ("get_*", "say"),
        "deny": ("*_secret",),
        "rename": {"get_a": "say"},
    }
    made = catalog([server("a", **rules)], a=offer("get_a", "get_secret", "put", "say_more"))
    assert exposed(made) == ["a_say"]


def test_a_rename_does_not_smuggle_a_denied_tool_in() -> None:
    made = catalog([server("a", deny=("rm",), rename={"rm": "nice"})], a=offer("rm"))
    assert exposed(made) == []


def test_the_first_server_of_the_config_keeps_a_contested_name() -> None:
    servers = [server("mcp1_x"), server("mcp1")]
    made = catalog(servers, mcp1_x=offer("y"), mcp1=offer("x_y", "z"))
    assert made.entries["tool"]["mcp1_x_y"].name == ToolName("mcp1_x", "y")
    assert made.refused == {ToolName("mcp1", "x_y"): ToolName("mcp1_x", "y")}
    assert exposed(made) == ["mcp1_x_y", "mcp1_z"]


def test_a_name_stays_with_its_holder_while_that_is_away() -> None:
    servers = [server("a", ""), server("b", "")]
    made = catalog(servers, "b", a=offer("echo"), b=offer("echo", "more"))
    assert exposed(made) == ["more"]
    assert made.refused == {ToolName("b", "echo"): ToolName("a", "echo")}


def test_a_tool_that_a_server_names_twice_is_offered_once() -> None:
    made = catalog([server("a")], a=offer("x", "x"))
    assert exposed(made) == ["a_x"]
    assert not made.refused


def test_a_rename_onto_another_tool_of_the_server_is_a_collision_too() -> None:
    made = catalog([server("a", rename={"y": "x"})], a=offer("x", "y"))
    assert made.entries["tool"]["a_x"].name == ToolName("a", "x")
    assert made.refused == {ToolName("a", "y"): ToolName("a", "x")}


def test_a_server_that_was_never_seen_or_is_not_there_offers_nothing() -> None:
    assert exposed(catalog([server("a"), server("b")], "b", a=offer("x"))) == []


def test_a_view_shows_what_the_allowlist_grants_by_server_and_tool() -> None:
    made = catalog([server("a"), server("b", "")], a=offer("x", "y"), b=offer("a_z", "x"))
    assert exposed(made, Allowlist.of({"a": ["*"]})) == ["a_x", "a_y"]
    assert exposed(made, Allowlist.of({"*": ["x"]})) == ["a_x", "x"]
    assert exposed(made, Allowlist.of({"b": ["a_*"]})) == ["a_z"]
    assert exposed(made, Allowlist.of({})) == []


def test_grants_name_a_renamed_tool_as_its_server_does() -> None:
    made = catalog([server("a", rename={"x": "say"})], a=offer("x"))
    assert exposed(made, Allowlist.of({"a": ["x"]})) == ["a_say"]
    assert exposed(made, Allowlist.of({"a": ["say"]})) == []


def test_instructions_are_those_of_the_servers_that_an_agent_reaches() -> None:
    servers = [server("a"), server("b"), server("c")]
    x, y = offer("x", instructions="Use x."), offer("y", instructions="Use y.")
    made = catalog(servers, a=x, b=y, c=offer("z"))
    assert made.view(EVERYTHING).instructions == "## a\nUse x.\n\n## b\nUse y."
    assert made.view(Allowlist.of({"b": ["y"]})).instructions == "## b\nUse y."
    assert made.view(Allowlist.of({"c": ["*"], "a": []})).instructions is None


def test_equal_allowlists_share_a_view_and_different_ones_never_do() -> None:
    made = catalog([server("a")], a=offer("x", "y"))
    first = made.view(Allowlist.of({"a": ["x", "y"]}))
    assert made.view(Allowlist.of({"a": ["y", "x"]})) is first
    assert made.view(Allowlist.of({"a": ["x"]})) is not first


def test_views_of_very_many_allowlists_stay_right_and_bounded() -> None:
    made = catalog([server("a")], a=offer(*(f"t{n}" for n in range(600))))
    for n in range(600):
        assert exposed(made, Allowlist.of({"a": [f"t{n}"]})) == [f"a_t{n}"]
    assert len(made._views) <= 256


def test_the_encoded_list_is_the_list() -> None:
    view = catalog([server("a")], a=offer("x", "y")).view(EVERYTHING)
    assert orjson.loads(orjson.dumps(view.listings["tool"].json)) == list(
        view.listings["tool"].definitions
    )


def test_only_a_hint_that_is_true_makes_a_tool_repeatable() -> None:
    hints: dict[str, Any] = {
        "none": None,
        "read": {"readOnlyHint": True},
        "again": {"idempotentHint": True},
        "no": {"idempotentHint": False, "readOnlyHint": False, "destructiveHint": False},
    }
    tools = tuple({"name": n, "inputSchema": {}, "annotations": h} for n, h in hints.items())
    made = catalog([server("a", "")], a=Offer(tools))
    repeatable = {name for name, entry in made.entries["tool"].items() if entry.repeatable}
    assert repeatable == {"read", "again"}


def test_an_offer_survives_its_wire_form() -> None:
    known = offer("x", instructions="hm")
    assert Offer.from_wire(orjson.loads(orjson.dumps(known.to_wire()))) == known


TOOLS = st.lists(st.sampled_from(["x", "y", "b_x", "x_y"]), max_size=4)
PREFIXES = st.sampled_from(["", "a", "a_b", "b"])


@given(st.dictionaries(st.sampled_from("abcd"), st.tuples(PREFIXES, TOOLS), max_size=4), st.data())
def test_who_holds_a_name_does_not_depend_on_who_is_up(
    fleet: dict[str, tuple[str, list[str]]], data: st.DataObject
) -> None:
    servers = {name: server(name, prefix) for name, (prefix, _) in fleet.items()}
    offers = {name: offer(*tools) for name, (_, tools) in fleet.items()}
    up = data.draw(st.sets(st.sampled_from(sorted(fleet)))) if fleet else set()
    whole, part = build(1, servers, offers, servers), build(2, servers, offers, up)
    assert part.refused == whole.refused
    assert part.entries["tool"] == {
        n: e for n, e in whole.entries["tool"].items() if e.name.server in up
    }
    claimed = {ToolName(s, t["name"]) for s, o in offers.items() for t in o.tools}
    assert claimed == {e.name for e in whole.entries["tool"].values()} | whole.refused.keys()


ABLE, OTHER = profile_of({"elicitation": {}}), profile_of({"sampling": {}})


def test_what_a_server_shows_to_some_is_seen_by_them_alone() -> None:
    both = merged(offer("x", "y"), {ABLE: offer("y", "asks", "x"), OTHER: offer("y")})
    made = catalog([server("a"), server("b")], a=both, b=offer("z"))

    def seen(profile: Profile) -> set[str]:
        listing = made.view(EVERYTHING, profile).listings["tool"]
        return {tool["name"] for tool in listing.definitions}

    assert seen(BASE) == {"a_x", "a_y", "b_z"}
    assert seen(ABLE) == {"a_x", "a_y", "a_asks", "b_z"}
    assert seen(OTHER) == {"a_y", "b_z"}
    assert seen(profile_of({"roots": {}})) == seen(BASE)
    assert made.view(EVERYTHING, profile_of({"roots": {}})) is made.view(EVERYTHING)


def test_a_name_means_one_definition_whoever_looks() -> None:
    other = Offer(({"name": "x", "description": "another text"},))
    both = merged(offer("x"), {ABLE: other})
    assert both == offer("x")
    more = merged(offer("x"), {ABLE: Offer((*other.tools, {"name": "asks"}))})
    assert more.tools == (*offer("x").tools, {"name": "asks"})


def test_lists_that_do_not_differ_leave_the_offer_as_it_is() -> None:
    base = offer("x", "y")
    assert merged(base, {ABLE: offer("y", "x")}) is base
    assert merged(base, {}) is base


def test_a_profile_is_the_same_however_it_is_written() -> None:
    one = profile_of({"roots": {"listChanged": True}, "sampling": {}})
    assert one == profile_of({"sampling": {}, "roots": {"listChanged": True}})
    assert capabilities_of(one) == {"sampling": {}, "roots": {"listChanged": True}}
    nothing: tuple[Any, ...] = (None, {}, [], "x", 7, [1])
    assert [profile_of(each) for each in nothing] == [BASE] * len(nothing)
