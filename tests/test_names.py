"""Exposed names: joined once, bounded, and never confused."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mcpcp.names import LONGEST, ToolName, expose

PARTS = st.text(alphabet="abc_-", max_size=80)


def test_a_name_is_prefix_underscore_tool() -> None:
    assert expose("mcp1", "echo") == "mcp1_echo"


def test_without_a_prefix_a_name_stays_as_it_is() -> None:
    assert expose("", "echo") == "echo"
    assert expose("", "x" * LONGEST) == "x" * LONGEST


def test_a_name_of_exactly_the_limit_is_not_shortened() -> None:
    assert expose("a", "b" * (LONGEST - 2)) == "a_" + "b" * (LONGEST - 2)


def test_a_long_name_keeps_its_beginning_and_ends_in_a_hash() -> None:
    name = expose("server", "tool_" * 20)
    assert len(name) == LONGEST
    assert name.startswith("server_tool_tool_")
    assert name == expose("server", "tool_" * 20)


def test_long_names_that_differ_only_at_the_end_stay_apart() -> None:
    assert expose("s", "t" * 100 + "1") != expose("s", "t" * 100 + "2")


@given(PARTS, PARTS)
def test_every_name_fits(prefix: str, tool: str) -> None:
    assert len(expose(prefix, tool)) <= LONGEST


@given(PARTS, PARTS, PARTS)
def test_two_tools_of_one_server_never_share_a_name(prefix: str, one: str, other: str) -> None:
    assert (expose(prefix, one) == expose(prefix, other)) == (one == other)


def test_a_tool_name_says_server_and_tool() -> None:
    assert str(ToolName("mcp1", "echo")) == "mcp1:echo"
    assert ToolName("mcp1", "x_y") != ToolName("mcp1_x", "y")
