"""The time, here and elsewhere: `get_current_time` and `convert_time`."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file: use the package that this very file belongs to
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import difflib
import functools
import re
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated
from zoneinfo import ZoneInfo, available_timezones

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import BaseModel, Field

from servers.serving import serve

server = MCPServer(
    "time",
    title="Time",
    description="Tells the time in any timezone and converts between timezones.",
    instructions="Timezones are IANA names such as Europe/Berlin, or UTC.",
)

READ_ONLY = ToolAnnotations(read_only_hint=True, open_world_hint=False)

Timezone = Annotated[
    str, Field(max_length=64, description="IANA timezone name, such as Europe/Berlin or UTC")
]


class Moment(BaseModel):
    """A moment as a clock in one timezone shows it."""

    datetime: str = Field(description="ISO 8601 with the offset from UTC")
    timezone: str
    day_of_week: str
    utc_offset: str = Field(description="such as +02:00")
    is_dst: bool = Field(description="whether daylight saving time is in force")


class Conversion(BaseModel):
    """The same moment in two timezones."""

    source: Moment
    target: Moment
    time_difference: str = Field(description="how far the target's clock is ahead, such as +5:30 h")
    note: str | None = Field(
        default=None, description="what was assumed where the time is skipped or occurs twice"
    )


@server.tool(title="Current time", annotations=READ_ONLY)
async def get_current_time(timezone: Timezone = "UTC") -> Moment:
    """Get the current time in a timezone, in ISO 8601; UTC when none is given."""
    return moment(datetime.now(UTC), zone(timezone))


@server.tool(
    title="Convert time",
    annotations=READ_ONLY.model_copy(update={"idempotent_hint": True}),
)
async def convert_time(
    time: Annotated[
        str,
        Field(
            max_length=64,
            description="HH:MM[:SS], today in the source timezone; or ISO 8601 date and time",
        ),
    ],
    source_timezone: Timezone,
    target_timezone: Timezone,
) -> Conversion:
    """Convert a time from one timezone to another.

    A time with an offset of its own (`2026-07-01T12:00+02:00`) is that moment; the source timezone
    then only says how to show it. A time that daylight saving skips or repeats is converted by the
    offset before the change, and a note says so.
    """
    return convert(time, zone(source_timezone), zone(target_timezone), datetime.now(UTC))


def convert(text: str, source: ZoneInfo, target: ZoneInfo, now: datetime) -> Conversion:
    """The moment that `text` names in `source`, in both; `now` gives a bare time its day."""
    local, note = _on_the_clock(parse(text, now.astimezone(source).date()), source)
    instant = local.astimezone(UTC)
    here, there = instant.astimezone(source), instant.astimezone(target)
    return Conversion(
        source=moment(instant, source),
        target=moment(instant, target),
        time_difference=_difference(_offset(there) - _offset(here)),
        note=note,
    )


def moment(instant: datetime, timezone: ZoneInfo) -> Moment:
    """`instant` as a clock in `timezone` shows it."""
    local = instant.astimezone(timezone)
    return Moment(
        datetime=local.isoformat(timespec="seconds"),
        timezone=timezone.key,
        day_of_week=local.strftime("%A"),
        utc_offset=local.isoformat()[-6:],
        is_dst=bool(local.dst()),
    )


_BARE = re.compile(r"\A(\d{1,2}):(\d{2})(?::(\d{2}))?\Z", re.ASCII)


def parse(text: str, today: date) -> datetime:
    """ISO 8601 date and time, or a time of day on `today`; naive unless it has an offset."""
    bare = _BARE.match(text.strip())
    try:
        if bare:
            hour, minute, second = (int(part or 0) for part in bare.groups())
            return datetime.combine(today, time(hour, minute, second))
        return datetime.fromisoformat(text.strip())
    except ValueError as e:
        raise ToolError(
            f"{text!r} is not a time: use 24-hour HH:MM, such as 16:30, or ISO 8601, "
            "such as 2026-07-01T16:30"
        ) from e


def _on_the_clock(local: datetime, timezone: ZoneInfo) -> tuple[datetime, str | None]:
    """`local` with its timezone, and a note where the clock skips that time or shows it twice.

    fold=0 takes the offset before the change in both cases.
    """
    if local.tzinfo is not None:
        return local, None
    first, second = local.replace(tzinfo=timezone, fold=0), local.replace(tzinfo=timezone, fold=1)
    if _offset(first) == _offset(second):
        return first, None
    shown = local.isoformat(sep=" ", timespec="minutes")
    if _offset(first) > _offset(second):
        return first, f"{shown} occurs twice in {timezone.key}; the first one was taken"
    return first, (
        f"{shown} does not occur in {timezone.key}, where the clock is put forward over it; "
        "it was read by the offset before the change"
    )


def _offset(local: datetime) -> timedelta:
    return local.utcoffset() or timedelta()


def _difference(ahead: timedelta) -> str:
    minutes = round(ahead.total_seconds() / 60)
    hours, rest = divmod(abs(minutes), 60)
    return f"{'-' if minutes < 0 else '+'}{hours}:{rest:02} h"


def zone(name: str) -> ZoneInfo:
    """The timezone of that name, in any case; else an error that names the nearest ones."""
    exact = _by_lower_case().get(name.strip().lower())
    if exact is None:
        raise ToolError(f"unknown timezone {name!r}; {_suggestion(name)}")
    return ZoneInfo(exact)


@functools.cache
def _by_lower_case() -> dict[str, str]:
    return {known.lower(): known for known in sorted(available_timezones(), reverse=True)}


def _suggestion(name: str) -> str:
    """The nearest names: those that contain the word as a place, then those spelled alike."""
    word = re.sub(r"[\s-]+", "_", name.strip().lower())
    known = _by_lower_case()
    places = {key.rsplit("/", 1)[-1]: key for key in known}
    same_place = [
        key for key in known if word and key.rsplit("/", 1)[-1] == word.rsplit("/", 1)[-1]
    ]
    alike = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    by_place = difflib.get_close_matches(word.rsplit("/", 1)[-1], places, n=3, cutoff=0.7)
    found = dict.fromkeys([*same_place, *alike, *(places[place] for place in by_place)])
    if not found:
        return "use an IANA name, such as Europe/Berlin, or UTC"
    return "did you mean " + " or ".join(known[key] for key in list(found)[:3]) + "?"


if __name__ == "__main__":
    serve(server, port=9010)
