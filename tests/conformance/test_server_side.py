"""Through the gateway the conformance tool finds of a server what it finds directly.

`python -m tests.conformance` shows the differences by hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance import suite
from tests.conformance.accepted import wrong
from tests.conformance.checks import differences, render
from tests.conformance.stage import Behind, Stage, everything, stage

pytestmark = [pytest.mark.npm, pytest.mark.timeout(1800)]

LAST_OF_EACH_ERA = [suite.Run(suite.NEXT, "2025-11-25"), suite.Run(suite.NEXT, "2026-07-28")]
"""Earlier revisions have a part of their scenarios."""
OLDER = suite.Run(suite.STABLE, "2025-11-25")
TOOLS_OWN = {
    (OLDER, "server-sse-priming-event"),
    (OLDER, "server-sse-retry-field"),
}
"""This release says there that it speaks 2025-03-26, for which no server sends these events."""


def cases() -> Iterator[object]:
    """Every run over streamable HTTP, and the last of each era over the other two."""
    runs: tuple[tuple[Behind, list[suite.Run]], ...] = (
        ("http", list(suite.RUNS)),
        ("sse", LAST_OF_EACH_ERA),
        ("stdio", LAST_OF_EACH_ERA),
    )
    for behind, known in runs:
        for run in known:
            yield pytest.param(behind, run, id=f"{run}-{behind}-behind")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with everything(tmp_path_factory.mktemp("everything") / "log") as port:
        yield f"http://127.0.0.1:{port}/mcp"


@pytest.fixture(scope="module")
def staged(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, keys: Path
) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp(request.param), keys, request.param) as opened:
        yield opened


@pytest.mark.parametrize("run", suite.RUNS, ids=str)
def test_the_server_itself_passes_everything(server: str, run: suite.Run) -> None:
    report = suite.check_server(run, server)
    assert {(run, check.id) for check in report.bad()} <= TOOLS_OWN
    assert not report.silent()


@pytest.mark.parametrize(("staged", "run"), list(cases()), indirect=["staged"])
def test_nothing_is_lost_or_changed_through_the_gateway(staged: Stage, run: suite.Run) -> None:
    direct = suite.check_server(run, staged.direct)
    found = wrong(staged.behind, differences(direct, suite.check_server(run, staged.through)))
    assert not found, f"\n{render(found)}"
