"""`mcpcp audit tail` and `search`: which records are meant; `verify` is in test_identity.py."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mcpcp.audit import AuditLog, CallRecord, Outcome
from mcpcp.cli.gathering import gather
from mcpcp.config import load
from tests.cli.project import Project

HOUR = 3600.0


@pytest.fixture
def log(tmp_path: Path) -> Project:
    """A project with records of two agents, the oldest four hours ago, in several files."""
    project = Project(tmp_path)
    project.make_keys()
    now = [time.time() - 5 * HOUR]
    path = tmp_path / "data" / "audit" / "audit.jsonl"
    log = AuditLog(path, project.keys, max_bytes=200, clock=lambda: now[0])
    calls: list[tuple[str, str, str, Outcome]] = [
        ("ada", "mcp1", "echo", "ok"),
        ("ada", "mcp2", "run_docker", "error"),
        ("bob", "mcp1", "echo", "denied"),
        ("bob", "mcp1", "report", "timeout"),
    ]
    for number, (agent, server, tool, outcome) in enumerate(calls, 1):
        now[0] += HOUR
        log.record(
            CallRecord(
                agent, "id", "s", server, tool, "tools/call", outcome, request_id=f"r-{number}"
            )
        )
    log.close()
    assert len(list(path.parent.glob("audit.0*.jsonl"))) >= 2
    return project


def found(project: Project, *words: str) -> list[str]:
    """The request ids of what a search finds, in its order."""
    result = project.run("audit", "search", "--json", *words)
    records: list[dict[str, Any]] = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == (0 if records else 1)
    return [record["request_id"] for record in records if "event" not in record]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), ["r-1", "r-2", "r-3", "r-4"]),
        (("--agent", "ada"), ["r-1", "r-2"]),
        (("--agent", "a*"), ["r-1", "r-2"]),
        (("--agent", "ad"), []),
        (("--server", "mcp1"), ["r-1", "r-3", "r-4"]),
        (("--tool", "echo"), ["r-1", "r-3"]),
        (("--tool", "mcp1:echo"), ["r-1", "r-3"]),
        (("--tool", "mcp2:*"), ["r-2"]),
        (("--tool", "mcp2:echo"), []),
        (("--outcome", "denied"), ["r-3"]),
        (("--outcome", "denied", "--outcome", "error"), ["r-2", "r-3"]),
        (("--outcome", "ok", "--agent", "bob"), []),
        (("--request", "r-4"), ["r-4"]),
        (("--since", "150m"), ["r-3", "r-4"]),
        (("--until", "150m"), ["r-1", "r-2"]),
        (("--since", "210m", "--until", "90m", "--agent", "bob"), ["r-3"]),
    ],
)
def test_a_search_finds_what_is_meant_in_every_file(
    log: Project, words: tuple[str, ...], expected: list[str]
) -> None:
    assert found(log, *words) == expected


def test_a_time_may_be_a_date(log: Project) -> None:
    moment = datetime.fromtimestamp(time.time() - 2.5 * HOUR, UTC).isoformat()
    assert found(log, "--since", moment) == ["r-3", "r-4"]
    assert found(log, "--since", "2199-01-01") == []
    assert "is no time: write" in log.error("audit", "search", "--since", "yesterday")


def test_a_search_that_finds_nothing_says_so(log: Project) -> None:
    result = log.run("audit", "search", "--agent", "eve")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no record is like that" in result.stderr


def test_an_outcome_that_does_not_exist_is_refused(log: Project) -> None:
    assert "timeout" in log.error("audit", "search", "--outcome", "timeoutt")


def test_the_tail_is_of_what_is_meant(log: Project) -> None:
    lines = log.ok("audit", "tail", "-n", "1", "--agent", "ada").splitlines()
    assert len(lines) == 1
    assert lines[0].endswith("ada tools/call mcp2:run_docker error 0.0 ms request=r-2")
    assert len(log.ok("audit", "tail", "-n", "3").splitlines()) == 3
    assert log.ok("audit", "tail", "-n", "0") == ""


def test_the_logs_of_a_second_gateway_are_searched_too(log: Project) -> None:
    path = log.root / "data" / "audit" / "audit-2.jsonl"
    other = AuditLog(path, log.keys, clock=lambda: time.time() - 2.5 * HOUR)
    other.record(CallRecord("ada", "id", "s", "mcp3", "x", "tools/call", "ok", request_id="r-2.5"))
    other.close()
    assert found(log) == ["r-1", "r-2", "r-2.5", "r-3", "r-4"]


def test_a_request_s_lines_are_gathered_in_order_whole_and_only_its_own(log: Project) -> None:
    folder = log.root / "data" / "logs"
    folder.mkdir()
    ago = datetime.fromtimestamp(time.time() - 4 * HOUR - 60, UTC).isoformat("T", "milliseconds")
    late = datetime.now(UTC).isoformat("T", "milliseconds")
    (folder / "mcp1.log.1").write_text(
        f"{ago} INFO s: begun tool=echo request=r-1\n{ago} INFO s: other request=r-12\n"
    )
    (folder / "mcp1.log").write_text(
        f"{late} ERROR s: it broke request=r-1\nTraceback (most recent call last):\n  boom\n"
        f"{late} INFO s: says request=r-1x\nnoise request=r-2\n"
    )
    line = {"time": late, "message": "as JSON", "request": "r-1"}
    (folder / "mcp2.log").symlink_to("moved away in the midst of a look")
    (folder / "gateway.log").write_text(json.dumps(line) + "\n" + json.dumps({"request": "r-9"}))
    lines = gather(load(log.config), "r-1")
    assert [line.source for line in lines] == ["mcp1", "audit", "gateway", "mcp1"]
    assert lines[3].text.splitlines()[1:] == ["Traceback (most recent call last):", "  boom"]
    shown = log.ok("logs", "--request", "r-1")
    assert "mcp1    | " in shown
    assert "  boom" in shown
    assert "nothing is written of a request 'r-*'" in log.error("logs", "--request", "r-*")


def test_logs_want_a_name_or_a_request(log: Project) -> None:
    assert "give --request ID" in log.error("logs")
