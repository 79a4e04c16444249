"""What is believed of what a sandbox says: fuzzed, because everything in it may be hostile."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servers.sandboxing.inside import frames
from servers.sandboxing.outcome import Limits
from servers.sandboxing.paths import BadPath, checked
from servers.sandboxing.transcript import Ending, Transcript

SMALL = Limits(output=100, flood=400, file_count=3, file_size=64, disk=100, file_depth=3, result=20)
REPORT: dict[str, Any] = {
    "exit_code": 0,
    "stopped": None,
    "finished": True,
    "out_of_memory": False,
    "result": None,
    "skipped": [],
    "cpu_seconds": 0.5,
    "peak_memory": 1000,
}
KINDS = st.sampled_from([bytes([kind]) for kind in frames.FROM_SANDBOX])

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
reports = st.fixed_dictionaries(dict.fromkeys(REPORT, json_values))
payloads = st.one_of(
    st.binary(max_size=300),
    json_values.map(lambda value: json.dumps(value).encode()),
    st.text(max_size=80).map(lambda path: json.dumps({"path": path}).encode()),
    reports.map(lambda report: json.dumps(report).encode()),
)
conversations = st.lists(st.tuples(KINDS, payloads), max_size=20)


def report(**changes: object) -> bytes:
    return frames.encode(frames.REPORT, json.dumps({**REPORT, **changes}).encode())


def cut(data: bytes, at: list[int]) -> list[bytes]:
    places = sorted({place % (len(data) + 1) for place in at})
    ends = [*places, len(data)]
    return [data[start:end] for start, end in zip([0, *places], ends, strict=True)]


@settings(max_examples=60)
@given(conversations, st.lists(st.integers(min_value=0, max_value=10_000), max_size=8))
def test_frames_come_out_as_they_went_in_however_they_are_cut(
    said: list[tuple[bytes, bytes]], at: list[int]
) -> None:
    decoder = frames.Decoder(frames.FROM_SANDBOX)
    data = b"".join(frames.encode(kind, payload) for kind, payload in said)
    assert [frame for piece in cut(data, at) for frame in decoder.feed(piece)] == said


@given(st.binary(max_size=400))
def test_any_bytes_are_frames_or_refused(data: bytes) -> None:
    decoder = frames.Decoder(frames.FROM_SANDBOX)
    with suppress(frames.BadFrame):
        for kind, payload in decoder.feed(data):
            assert kind in frames.FROM_SANDBOX and len(payload) <= frames.LONGEST


@settings(max_examples=60)
@given(conversations, st.booleans(), st.booleans())
def test_whatever_a_sandbox_says_the_outcome_keeps_its_bounds(
    said: list[tuple[bytes, bytes]], timed_out: bool, starved: bool
) -> None:
    transcript = Transcript(SMALL)
    with suppress(frames.BadFrame):
        for kind, payload in said:
            transcript.feed(frames.encode(kind, payload))
    outcome = transcript.outcome(Ending(1.0, timed_out, starved))
    assert len(outcome.stdout) <= SMALL.output and len(outcome.stderr) <= SMALL.output
    assert len(outcome.result or "") <= SMALL.result
    assert len(outcome.files) <= SMALL.file_count
    assert sum(len(file.data) for file in outcome.files) <= SMALL.disk
    for path in (*[file.path for file in outcome.files], *outcome.deleted):
        assert checked(path, SMALL.file_depth) == path
    if timed_out:
        assert outcome.status in ("timeout", "output_limit")
    json.dumps([outcome.stdout, outcome.stderr, outcome.result, outcome.skipped], allow_nan=False)
    "".join([outcome.stdout, outcome.stderr, outcome.result or "", *outcome.skipped]).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"Z" + b"\0" * 4,
        b"1" + (frames.LONGEST + 1).to_bytes(4, "big"),
        frames.encode(frames.REPORT, b"{}"),
        frames.encode(frames.REPORT, b"[" * 100_000),
        report(cpu_seconds=float("nan")),
        report(peak_memory="much"),
        report(exit_code=None),
        report() + frames.encode(frames.STDOUT, b"more"),
        frames.encode(frames.FILE, b"{}"),
        frames.encode(frames.FILE, b'{"path": "a"}') + frames.encode(frames.DATA, b"x" * 65),
    ],
)
def test_nonsense_ends_the_conversation(data: bytes) -> None:
    with pytest.raises(frames.BadFrame):
        Transcript(SMALL).feed(data)


@pytest.mark.parametrize(
    "path",
    ["../x", "/etc/passwd", "a/../../b", "", "a//b", ".", "a/b/c/d", "x\0y", "a\\b", "\u202ex"],
)
def test_a_file_of_a_harmful_name_is_left_out_and_said(path: str) -> None:
    transcript = Transcript(SMALL)
    transcript.feed(frames.encode(frames.FILE, json.dumps({"path": path}).encode()))
    transcript.feed(frames.encode(frames.DATA, b"content") + report())
    outcome = transcript.outcome(Ending(1.0))
    assert outcome.files == () and len(outcome.skipped) == 1 and outcome.truncated


@settings(max_examples=60)
@given(st.text(max_size=60), st.integers(min_value=1, max_value=4))
def test_a_checked_path_stays_where_it_belongs(path: str, depth: int) -> None:
    with suppress(BadPath):
        parts = checked(path, depth).split("/")
        assert len(parts) <= depth and not {"", ".", ".."} & set(parts)


@pytest.mark.parametrize(
    ("said", "ending", "status", "code"),
    [
        (report(), Ending(1.0), "ok", 0),
        (report(exit_code=3), Ending(1.0), "error", 3),
        (report(exit_code=-11), Ending(1.0), "killed", -11),
        (report(exit_code=-24, cpu_seconds=60.1), Ending(1.0), "timeout", -24),
        (report(exit_code=-24), Ending(1.0, cpu_seconds=60.1), "timeout", -24),
        (report(exit_code=-24), Ending(1.0), "killed", -24),  # it sent that signal to itself
        (report(exit_code=-9, stopped="cpu_time"), Ending(1.0), "timeout", -9),
        (report(exit_code=1, out_of_memory=True), Ending(1.0), "memory_limit", 1),
        (report(exit_code=-9), Ending(1.0, out_of_memory=True), "memory_limit", -9),
        (report(), Ending(1.0, out_of_memory=True), "ok", 0),
        (b"", Ending(1.0, out_of_memory=True), "memory_limit", None),
        (b"", Ending(1.0), "killed", None),
        (b"", Ending(1.0, timed_out=True), "timeout", None),
        (frames.encode(frames.STDOUT, b"x" * 500), Ending(1.0), "output_limit", None),
    ],
)
def test_what_a_run_came_to(said: bytes, ending: Ending, status: str, code: int | None) -> None:
    transcript = Transcript(SMALL)
    transcript.feed(said)
    outcome = transcript.outcome(ending)
    assert (outcome.status, outcome.exit_code) == (status, code)


def test_what_the_host_saw_goes_before_what_it_was_told() -> None:
    transcript = Transcript(SMALL)
    transcript.feed(report())
    told = transcript.outcome(Ending(1.0))
    assert (told.cpu_ms, told.peak_memory_bytes) == (500, 1000)
    seen = transcript.outcome(Ending(1.0, cpu_seconds=2.0, peak_memory=7))
    assert (seen.cpu_ms, seen.peak_memory_bytes) == (2000, 7)


@pytest.mark.parametrize("kind", [frames.STDOUT, frames.STDERR])
def test_code_that_is_ended_for_a_flood_had_more_to_say(kind: bytes) -> None:
    """Also where all that came is shown: how much comes before the end is chance."""
    transcript = Transcript(Limits(output=100, flood=50))
    transcript.feed(frames.encode(kind, bytes(60)) + report())
    outcome = transcript.outcome(Ending(1.0))
    assert (outcome.status, outcome.truncated) == ("output_limit", True)
