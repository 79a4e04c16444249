"""What counts as a difference between two reports."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance import suite
from tests.conformance.accepted import wrong
from tests.conformance.checks import Check, Difference, Report, differences, read, render


def report(*checks: tuple[str, str], scenario: str = "s") -> Report:
    return Report({scenario: tuple(Check(scenario, id_, "Name", status) for id_, status in checks)})


PASSED = report(("a", "SUCCESS"), ("b", "SUCCESS"))


def shown(direct: Report, through: Report) -> list[tuple[str, str | None, str | None]]:
    return [(one.id, one.direct, one.through) for one in differences(direct, through)]


def test_equal_reports_do_not_differ() -> None:
    assert differences(PASSED, PASSED) == []
    failed = report(("a", "FAILURE"))
    assert differences(failed, failed) == []


@pytest.mark.parametrize(
    ("through", "difference"),
    [
        (report(("a", "SUCCESS")), ("b", "SUCCESS", None)),
        (report(("a", "SUCCESS"), ("b", "WARNING")), ("b", "SUCCESS", "WARNING")),
        (report(("a", "SUCCESS"), ("b", "SUCCESS"), ("c", "FAILURE")), ("c", None, "FAILURE")),
        (
            report(("a", "SUCCESS"), ("b", "SUCCESS"), ("b", "SUCCESS")),
            ("b", "SUCCESS", "2 x SUCCESS"),
        ),
        (
            report(("a", "SUCCESS"), ("b", "SUCCESS"), ("b", "FAILURE")),
            ("b", "SUCCESS", "FAILURE, SUCCESS"),
        ),
    ],
    ids=["lost", "changed", "new", "twice", "once more, and failed"],
)
def test_a_check_that_is_lost_changed_new_or_repeated_is_a_difference(
    through: Report, difference: tuple[str, str | None, str | None]
) -> None:
    assert shown(PASSED, through) == [difference]


def test_a_lost_scenario_is_every_check_lost() -> None:
    assert shown(PASSED, Report({})) == [
        ("a", "SUCCESS", None),
        ("b", "SUCCESS", None),
        ("(scenario)", "2 passed, 0 failed", "0 passed, 0 failed"),
    ]


@pytest.mark.parametrize("status", ["INFO", "SKIPPED"])
def test_nothing_passed_and_nothing_failed_is_lost_even_where_it_was_so_before(status: str) -> None:
    empty = report(("a", status))
    assert shown(empty, empty) == [("(scenario)", "0 passed, 0 failed", "0 passed, 0 failed")]
    assert empty.silent() == ["s"]
    assert PASSED.silent() == []


def test_how_often_the_tool_informs_is_no_difference() -> None:
    once = report(("a", "SUCCESS"), ("event", "INFO"))
    thrice = report(("a", "SUCCESS"), *[("event", "INFO")] * 3)
    assert differences(once, thrice) == []


def test_a_difference_says_why() -> None:
    bad = Report({"s": (Check("s", "a", "Name", "FAILURE", "it broke"),)})
    assert render(differences(report(("a", "SUCCESS")), bad)) == (
        "s\n  a: SUCCESS -> FAILURE\n      it broke"
    )


def test_only_an_accepted_difference_in_its_place_is_right() -> None:
    polling = Difference("s", "server-sse-disconnect-resume", "", "SUCCESS", "INFO")
    worse = Difference("s", "server-sse-disconnect-resume", "", "SUCCESS", "WARNING")
    assert wrong("stdio", [polling, worse]) == [worse]
    assert wrong("http", [worse]) == [worse]


def test_the_tools_folders_are_read_by_scenario(tmp_path: Path) -> None:
    said = [
        {"id": "x", "name": "X", "status": "FAILURE", "errorMessage": "no", "details": {"a": 1}}
    ]
    for name in ("server-tools-list", "auth/metadata-default", "tools_call"):
        folder = tmp_path / f"{name}-2026-11-20T11-00-54-099Z"
        folder.mkdir(parents=True)
        (folder / "checks.json").write_text(json.dumps(said))
    found = read(tmp_path)
    assert sorted(found.scenarios) == ["auth/metadata-default", "tools-list", "tools_call"]
    assert found.bad()[0].reason == 'no | {"a": 1}'


@pytest.mark.npm
@pytest.mark.timeout(1800)
def test_a_server_that_never_answers_ends_the_run(
    stranger: Callable[[int], socket.socket],
    free_port: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = free_port()
    stranger(port)
    url = f"http://127.0.0.1:{port}/mcp"
    with pytest.raises(suite.NothingRan, match="no-such-scenario"):  # and says what the tool said
        suite.check_server(suite.RUNS[2], url, "no-such-scenario")
    monkeypatch.setattr(suite, "RUN_TIMEOUT", 3.0)
    with pytest.raises(suite.NothingRan):
        suite.check_server(suite.RUNS[2], url, "ping")
