"""Who may use what: patterns, grants, and their equality."""

from __future__ import annotations

import fnmatch
import re

from hypothesis import example, given
from hypothesis import strategies as st

from mcpcp.policy import Agent, Allowlist, matches

NAMES = st.text(alphabet="ab*?[]._\n-", max_size=6)
GRANTS = st.dictionaries(NAMES, st.lists(NAMES, max_size=4), max_size=4)


def agent(name: str, serial: str = "1", issuer: str = "us", **allow: list[str]) -> Agent:
    return Agent(name, Allowlist.of(allow), issuer, serial, 0.0)


def test_a_star_stands_for_any_run_of_characters_and_nothing_else_is_special() -> None:
    assert matches("*", "")
    assert matches("get_*", "get_")
    assert matches("*_time", "get_time")
    assert matches("a*c*e", "abcde")
    assert not matches("get_*", "forget_it")
    assert not matches("a.c", "abc")
    assert not matches("[ab]", "a")
    assert not matches("a?", "ab")
    assert matches("a*", "a\nb")
    assert not matches("a", "a\n")
    assert not matches("Echo", "echo")


@given(NAMES, NAMES)
@example("*a", "ba\n")
def test_a_pattern_matches_as_the_shell_s_does_with_stars_only(pattern: str, name: str) -> None:
    quoted = re.sub(r"[?\[]", lambda found: f"[{found[0]}]", pattern)
    assert matches(pattern, name) == fnmatch.fnmatchcase(name, quoted)


@given(GRANTS, NAMES, NAMES)
def test_a_tool_is_granted_exactly_where_one_rule_grants_server_and_tool(
    grants: dict[str, list[str]], server: str, tool: str
) -> None:
    expected = any(
        matches(s, server) and matches(t, tool) for s, tools in grants.items() for t in tools
    )
    allow = Allowlist.of(grants)
    assert allow.permits(server, tool) == expected
    assert allow.reaches(server) or not expected


@given(GRANTS)
def test_equal_grants_are_one_value_in_whatever_order_they_are_written(
    grants: dict[str, list[str]],
) -> None:
    turned = {s: [*reversed(t), *t[:1]] for s, t in reversed(grants.items())}
    assert Allowlist.of(turned) == Allowlist.of(grants)
    assert hash(Allowlist.of(turned)) == hash(Allowlist.of(grants))
    assert Allowlist.of(Allowlist.of(grants).to_claim()) == Allowlist.of(grants)


def test_an_empty_list_of_tools_reaches_nothing() -> None:
    allow = Allowlist.of({"mcp1": [], "mcp2": ["*"]})
    assert not allow.reaches("mcp1")
    assert not allow.permits("mcp1", "echo")
    assert allow.reaches("mcp2")
    assert not Allowlist.of({}).reaches("mcp2")


def test_rules_of_two_servers_do_not_mix() -> None:
    allow = Allowlist.of({"mcp1": ["echo"], "mcp2": ["run"]})
    assert allow.permits("mcp1", "echo")
    assert not allow.permits("mcp1", "run")
    assert not allow.permits("mcp2", "echo")


def test_a_renewed_token_has_the_same_identity_and_another_grant_another_one() -> None:
    assert agent("a", "1", x=["*"]).identity == agent("a", "2", x=["*"]).identity
    assert agent("a", x=["*"]).identity != agent("a", x=["echo"]).identity
    assert agent("a", x=["*"]).identity != agent("b", x=["*"]).identity
    assert agent("a", issuer="us").identity != agent("a", issuer="them").identity
