"""Time: zones, gaps and folds of the clock, and what an unknown zone is told."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.server.mcpserver.exceptions import ToolError

from servers.time_client import convert, moment, server, zone
from tests.servers.harness import ROOT, connected, running

NOW = datetime(2026, 7, 1, 12, 0, tzinfo=UTC)
BERLIN, NEW_YORK, KOLKATA = (
    ZoneInfo(name) for name in ("Europe/Berlin", "America/New_York", "Asia/Kolkata")
)


def test_a_bare_time_is_today_in_the_source_timezone() -> None:
    late = datetime(2026, 7, 1, 23, 30, tzinfo=UTC)  # already July 2nd in Berlin
    assert convert("9:05", BERLIN, KOLKATA, late).source.datetime == "2026-07-02T09:05:00+02:00"


def test_a_conversion_shows_both_clocks_and_their_difference() -> None:
    result = convert("2026-01-15T20:00", NEW_YORK, KOLKATA, NOW)
    assert result.target.datetime == "2026-01-16T06:30:00+05:30"
    assert result.target.day_of_week == "Friday"
    assert (result.time_difference, result.note) == ("+10:30 h", None)
    assert convert("12:00", KOLKATA, NEW_YORK, NOW).time_difference == "-9:30 h"


def test_a_time_that_the_clock_skips_is_read_by_the_offset_before() -> None:
    result = convert("2026-03-29T02:30", BERLIN, ZoneInfo("UTC"), NOW)
    assert result.target.datetime == "2026-03-29T01:30:00+00:00"
    assert result.source.datetime == "2026-03-29T03:30:00+02:00"
    assert result.note
    assert "does not occur" in result.note


def test_a_time_that_occurs_twice_is_the_first_one() -> None:
    result = convert("2026-10-25T02:30", BERLIN, ZoneInfo("UTC"), NOW)
    assert result.target.datetime == "2026-10-25T00:30:00+00:00"
    assert result.note
    assert "occurs twice" in result.note


def test_an_offset_of_its_own_names_the_moment() -> None:
    result = convert("2026-07-01T12:00+09:00", BERLIN, NEW_YORK, NOW)
    assert result.source.datetime == "2026-07-01T05:00:00+02:00"
    assert result.target.datetime == "2026-06-30T23:00:00-04:00"


@pytest.mark.parametrize("text", ["25:00", "noon", "12:60", "", "2026-02-30T10:00", "١٢:٠٠"])
def test_what_is_no_time_is_told_how_to_write_one(text: str) -> None:
    with pytest.raises(ToolError, match="is not a time: use 24-hour HH:MM"):
        convert(text, BERLIN, NEW_YORK, NOW)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("Europe/Berln", "Europe/Berlin"),
        ("berlin", "Europe/Berlin"),
        ("New York", "America/New_York"),
        ("America/NewYork", "America/New_York"),
        ("Tokio", "Asia/Tokyo"),
    ],
)
def test_an_unknown_timezone_names_the_nearest_ones(wrong: str, right: str) -> None:
    with pytest.raises(ToolError, match=f"did you mean .*{right}"):
        zone(wrong)


@pytest.mark.parametrize("wrong", ["../../etc/passwd", "/etc/localtime", "", "\0", "zz"])
def test_a_hostile_timezone_is_only_unknown(wrong: str) -> None:
    with pytest.raises(ToolError, match="unknown timezone"):
        zone(wrong)


def test_a_timezone_may_be_written_in_any_case() -> None:
    assert (zone("europe/berlin").key, zone("utc").key) == ("Europe/Berlin", "UTC")


@given(st.text(max_size=64))
def test_no_text_breaks_the_search_for_a_timezone(name: str) -> None:
    try:
        zone(name)
    except ToolError as e:
        assert "timezone" in str(e)


@given(
    st.datetimes(datetime(1980, 1, 1), datetime(2037, 1, 1)),
    st.sampled_from([BERLIN, NEW_YORK, KOLKATA]),
    st.sampled_from([BERLIN, NEW_YORK, KOLKATA]),
)
def test_a_conversion_keeps_the_moment(local: datetime, source: ZoneInfo, target: ZoneInfo) -> None:
    result = convert(local.isoformat(timespec="seconds"), source, target, NOW)
    there = datetime.fromisoformat(result.target.datetime)
    assert there == datetime.fromisoformat(result.source.datetime)
    assert there.replace(tzinfo=None) == there.astimezone(target).replace(tzinfo=None)


def test_a_moment_says_whether_daylight_saving_is_in_force() -> None:
    assert (moment(NOW, BERLIN).is_dst, moment(NOW, BERLIN).utc_offset) == (True, "+02:00")
    assert not moment(NOW, KOLKATA).is_dst


@pytest.mark.anyio
async def test_every_tool_is_described_and_only_reads() -> None:
    for tool in await server.list_tools():
        assert tool.description
        assert tool.output_schema
        assert tool.annotations
        assert tool.annotations.read_only_hint


@pytest.mark.anyio
async def test_the_current_time_is_utc_when_nothing_is_asked() -> None:
    with running(ROOT / "servers" / "time_client.py") as script:
        async with connected(script.url, "sse", "legacy") as client:
            before = datetime.now(UTC).replace(microsecond=0)
            result = (await client.call_tool("get_current_time")).structured_content
            assert result
            told = datetime.fromisoformat(result["datetime"])
            assert before <= told <= datetime.now(UTC)
            assert (result["timezone"], result["utc_offset"]) == ("UTC", "+00:00")
            wrong = await client.call_tool("get_current_time", {"timezone": "Mars/Olympus"})
            assert wrong.is_error
