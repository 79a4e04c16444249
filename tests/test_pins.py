"""Pins: what is new, what has changed, and the file that gateways and people share."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpcp.config import PinPolicy, ServerConfig
from mcpcp.errors import ConfigError
from mcpcp.lockfile import LONGEST, PINNED, Pin, parse, to_text, version_of
from mcpcp.names import ToolName
from mcpcp.pins import MOST_TOOLS, FilePins, PinBook, Reviewed, Verdict, examine, judge


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mcpcp.lock"


def server(pin: PinPolicy = "quarantine", name: str = "mcp1") -> ServerConfig:
    return ServerConfig(name, "http", pin=pin)


def tool(name: Any = "echo", **changes: Any) -> dict[str, Any]:
    return {"name": name, "description": "Says it.", "inputSchema": {"type": "object"}, **changes}


CHANGED = tool(description="Says it, and reads ~/.ssh first.")


def names(reviewed: Reviewed) -> list[str]:
    return [t["name"] for t in reviewed.kept]


def test_what_the_policies_say() -> None:
    was, now = version_of(tool()), version_of(CHANGED)
    assert was is not None
    assert now is not None
    for policy in ("quarantine", "report"):
        assert judge(policy, None, now) is Verdict.NEW
        assert judge(policy, now, now) is Verdict.SAME
    assert judge("quarantine", was, now) is Verdict.QUARANTINED
    assert judge("report", was, now) is Verdict.REPORTED
    assert judge("off", was, now) is Verdict.SAME
    assert judge("off", None, now) is Verdict.SAME


@pytest.mark.parametrize("part", [p for p in PINNED if p != "name"])
def test_everything_that_says_what_a_tool_does_is_pinned(part: str) -> None:
    assert version_of(tool(**{part: {"a": 1}})) != version_of(tool(**{part: {"a": 2}}))


def test_order_of_keys_absent_parts_and_the_rest_are_not() -> None:
    turned = dict(reversed(tool(annotations=None, _meta={"n": 1}, icons=[]).items()))
    assert version_of(turned) == version_of(tool())


def test_first_sight_is_trusted_and_a_change_is_withheld_until_it_is_approved(path: Path) -> None:
    book = PinBook(FilePins(path))
    assert book.review(server(), (tool(), tool("other"))).kept == (tool(), tool("other"))
    changed = book.review(server(), (CHANGED, tool("other"), tool("new")))
    assert changed == Reviewed((tool("other"), tool("new")), ("echo",))
    (waiting,) = book.waiting()
    assert waiting.name == ToolName("mcp1", "echo")
    assert waiting.pin.pending == version_of(CHANGED)
    assert book.approve([waiting]) == (ToolName("mcp1", "echo"),)
    assert book.waiting() == ()
    assert book.review(server(), (CHANGED,)) == Reviewed((CHANGED,))
    assert book.review(server(), (tool(),)).quarantined == ("echo",)  # the old one is the change


def test_a_tool_that_goes_back_to_what_it_was_is_offered_again(path: Path) -> None:
    book = PinBook(FilePins(path))
    book.review(server(), (tool(),))
    book.review(server(), (CHANGED,))
    assert names(book.review(server(), (tool(),))) == ["echo"]
    assert book.waiting() == ()


def test_a_tool_can_not_change_by_going_away_or_by_a_restart(path: Path) -> None:
    PinBook(FilePins(path)).review(server(), (tool(),))
    PinBook(FilePins(path)).review(server(), ())
    assert PinBook(FilePins(path)).review(server(), (CHANGED,)).quarantined == ("echo",)


def test_a_second_definition_of_one_name_is_a_change(path: Path) -> None:
    assert PinBook(FilePins(path)).review(server(), (tool(), CHANGED)) == Reviewed(
        (tool(),), ("echo",)
    )


def test_servers_do_not_share_pins(path: Path) -> None:
    book = PinBook(FilePins(path))
    book.review(server(), (tool(),))
    assert names(book.review(server(name="mcp2"), (CHANGED,))) == ["echo"]


def test_a_reported_change_is_offered_and_told_of_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    PinBook(FilePins(path)).review(server("report"), (tool(),))
    for _ in range(3):
        reviewed = PinBook(FilePins(path)).review(server("report"), (CHANGED,))
        assert reviewed == Reviewed((CHANGED,), reported=("echo",))
    assert [m for m in caplog.messages if "mcp1:echo changed its definition" in m] == (
        ["mcp1:echo changed its definition and is offered; see: mcpcp tools diff"]
    )
    assert PinBook(FilePins(path)).waiting()


def test_a_quarantine_that_is_decided_later_holds_back_what_was_reported(path: Path) -> None:
    book = PinBook(FilePins(path))
    book.review(server("report"), (tool(),))
    book.review(server("report"), (CHANGED,))
    assert book.review(server("quarantine"), (CHANGED,)).quarantined == ("echo",)


def test_off_pins_nothing_and_writes_nothing(path: Path) -> None:
    book = PinBook(FilePins(path))
    for definition in (tool(), CHANGED):
        assert book.review(server("off"), (definition,)) == Reviewed((definition,))
    assert not path.exists()


def test_nothing_new_costs_nothing(path: Path) -> None:
    book, offer = PinBook(FilePins(path)), (tool(), tool("other"))
    first = book.review(server(), offer)
    stamp = path.stat().st_mtime_ns
    assert book.review(server(), offer) is first
    assert book.review(server(), (tool(), tool("other"))) is first
    assert PinBook(FilePins(path)).review(server(), offer) == first
    assert path.stat().st_mtime_ns == stamp


def test_the_file_is_sorted_and_reads_back_as_it_was_written(path: Path) -> None:
    book = PinBook(FilePins(path))
    book.review(server(name="b"), (tool("z"), tool("a", title="\u00e9")))
    book.review(server(name="a"), (tool(),))
    book.review(server(name="a"), (CHANGED,))
    text = path.read_text()
    assert json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n" == text
    entry = json.loads(text)["servers"]["a"]["echo"]
    assert entry["pending"]["definition"]["description"] == CHANGED["description"]
    assert to_text(parse(path.read_bytes(), "the file")) == text


def test_what_another_process_approves_is_followed(path: Path) -> None:
    book = PinBook(FilePins(path))
    book.review(server(), (tool(),))
    book.review(server(), (CHANGED,))
    other = PinBook(FilePins(path))
    other.approve(other.waiting())
    deadline = time.monotonic() + 90
    while book.review(server(), (CHANGED,)).quarantined:
        assert time.monotonic() < deadline
    assert not book.refresh()


@pytest.mark.anyio
async def test_follow_tells_of_others_changes_and_not_of_its_own(path: Path) -> None:
    book, told = PinBook(FilePins(path)), asyncio.Event()
    book.review(server(), (tool(),))
    async with asyncio.timeout(90), asyncio.TaskGroup() as tasks:
        following = tasks.create_task(book.follow(told.set))
        book.review(server(), (CHANGED,))
        assert not book.refresh()
        other = PinBook(FilePins(path))
        other.approve(other.waiting())
        await told.wait()
        assert names(book.review(server(), (CHANGED,))) == ["echo"]
        following.cancel()


def test_approving_pins_what_was_seen_and_nothing_that_came_later(path: Path) -> None:
    book = PinBook(FilePins(path))
    book.review(server(), (tool(),))
    book.review(server(), (CHANGED,))
    seen = book.waiting()
    worse = tool(description="Worse.")
    PinBook(FilePins(path)).review(server(), (worse,))
    assert book.approve(seen) == ()
    assert book.review(server(), (worse,)).quarantined == ("echo",)
    assert book.approve(book.waiting()) == (ToolName("mcp1", "echo"),)
    assert names(book.review(server(), (worse,))) == ["echo"]


BROKEN = [
    "", "{", "[]", "null", '{"version": 2, "servers": {}}', '{"version": 1}',
    '{"version": 1, "servers": {"a": 1}}', '{"version": 1, "servers": {"a": {"b": {}}}}',
    '{"version": 1, "servers": {"a": {"b": {"hash": 1}}}}',
    '{"version": 1, "servers": {"a": {"b": {"hash": "x", "definition": {"name": "b"}}}}}',
    "<<<<<<< HEAD\n{}", "[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("damage", BROKEN)
def test_a_broken_file_leaves_the_last_good_state_in_force_and_is_not_written_over(
    path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    book = PinBook(FilePins(path))
    book.review(server(), (tool(),))
    good = path.read_text()
    path.write_text(damage)
    book.refresh()
    book.refresh()
    assert len([m for m in caplog.messages if "the pins in force stay" in m]) == 1
    assert book.review(server(), (CHANGED, tool("new"))).quarantined == ("echo",)
    assert path.read_text() == damage
    with pytest.raises(ConfigError, match="is not a good lock file"):
        book.waiting()
    with pytest.raises(ConfigError, match="is not a good lock file"):
        book.approve([])
    path.write_text(good)
    assert book.review(server(), (tool(), tool("new"))).quarantined == ()
    book.refresh()
    assert names(book.review(server(), (tool(), tool("new")))) == ["echo", "new"]
    assert set(parse(path.read_bytes(), "the file")["mcp1"]) == {"echo", "new"}


def test_a_file_that_was_broken_from_the_start_withholds_what_would_be_quarantined(
    path: Path,
) -> None:
    path.write_text("{")
    book = PinBook(FilePins(path))
    assert book.review(server(), (tool(),)) == Reviewed((), ("echo",))
    assert book.review(server("report", "mine"), (tool(),)) == Reviewed((tool(),))
    assert book.review(server("off", "any"), (tool(),)) == Reviewed((tool(),))
    assert path.read_text() == "{"
    path.write_text(to_text({}))
    assert book.refresh()
    assert book.review(server(), (tool(),)) == Reviewed((tool(),))


def test_a_file_that_breaks_before_the_first_pin_does_not_make_everything_new(path: Path) -> None:
    book = PinBook(FilePins(path))
    path.write_text("{")
    assert book.review(server(), (tool(),)) == Reviewed((), ("echo",))


def test_a_file_that_is_deleted_under_a_gateway_forgets_nothing(path: Path) -> None:
    book = PinBook(FilePins(path))
    book.review(server(), (tool(),))
    path.unlink()
    assert book.review(server(), (CHANGED,)).quarantined == ("echo",)
    assert "echo" in parse(path.read_bytes(), "the file")["mcp1"]


def test_where_nothing_can_be_written_pins_are_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    book = PinBook(FilePins(tmp_path / "gone" / "mcpcp.lock"))
    assert names(book.review(server(), (tool(),))) == ["echo"]
    assert "can't be written" in caplog.text
    assert book.review(server(), (CHANGED,)).quarantined == ("echo",)
    with pytest.raises(ConfigError, match="can't be written"):
        book.approve(book.waiting())


def test_a_server_with_ever_new_names_does_not_fill_the_disk() -> None:
    offer = tuple(tool(f"t{n}") for n in range(MOST_TOOLS + 2))
    reviewed, pins = examine("report", {}, offer)
    assert reviewed.quarantined == (f"t{MOST_TOOLS}", f"t{MOST_TOOLS + 1}")
    assert len(pins) == MOST_TOOLS
    assert examine("report", pins, offer[:5]) == (Reviewed(offer[:5]), pins)


def test_a_long_definition_is_pinned_by_its_hash_alone(path: Path) -> None:
    book, long = PinBook(FilePins(path)), tool(description="x" * LONGEST)
    book.review(server(), (long,))
    assert path.stat().st_size < 1000
    assert names(PinBook(FilePins(path)).review(server(), (long,))) == ["echo"]
    assert book.review(server(), ({**long, "title": "x"},)).quarantined == ("echo",)


def test_a_definition_that_can_not_be_written_is_withheld(path: Path) -> None:
    deep: Any = {}
    for _ in range(100_000):
        deep = {"not": deep}
    assert PinBook(FilePins(path)).review(server("report"), (tool(inputSchema=deep),)).kept == ()
    while deep:  # Python frees a chain this deep by recursion otherwise
        deep = deep.pop("not")


def test_many_processes_pin_at_once_and_nothing_is_lost(path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from mcpcp.config import ServerConfig;"
        "from mcpcp.pins import FilePins, PinBook; b = PinBook(FilePins(Path(sys.argv[1])));"
        "[b.review(ServerConfig(sys.argv[2], 'http'), tuple({'name': f't{i}'} for i in range(n)))"
        " for n in range(8)]"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(path), f"s{n}"]) for n in range(4)
    ]
    assert [process.wait(90) for process in running] == [0] * 4
    assert {s: len(pins) for s, pins in parse(path.read_bytes(), "the file").items()} == {
        f"s{n}": 7 for n in range(4)
    }


OFFERS = st.lists(
    st.lists(
        st.builds(tool, st.sampled_from("abc"), description=st.sampled_from("xyz")),
        max_size=3,
        unique_by=lambda t: t["name"],
    ).map(tuple),
    max_size=6,
)


@given(OFFERS, st.sampled_from(["quarantine", "report"]))
def test_whatever_comes_and_goes_only_what_was_seen_first_is_offered_or_else_reported(
    offers: list[tuple[dict[str, Any], ...]], policy: PinPolicy
) -> None:
    pins: Any = {}
    first: dict[str, str] = {}
    for offer in offers:
        reviewed, pins = examine(policy, pins, offer)
        for definition in offer:
            seen = first.setdefault(definition["name"], definition["description"])
            same = seen == definition["description"]
            assert (definition in reviewed.kept) == (same or policy == "report")
            assert (definition["name"] in reviewed.quarantined + reviewed.reported) == (not same)
            pin: Pin = pins[definition["name"]]
            assert (pin.pending is None) == same
        assert examine(policy, pins, offer) == (reviewed, pins)  # a second look changes nothing
