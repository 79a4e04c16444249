"""Servers die at random under 32 clients, and every call is accounted for."""

from __future__ import annotations

import pytest

from tests import chaos
from tests.fleet import Fleet

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(900)]

SECONDS = 8.0


@pytest.mark.parametrize("seed", [20261120])
async def test_no_call_is_lost_or_doubled_while_servers_are_killed(fleet: Fleet, seed: int) -> None:
    chaos.configure(fleet)
    fleet.launch()
    report = await chaos.run(fleet, seconds=SECONDS, seed=seed)
    print(report)
    problems = report.problems()
    assert not problems, f"{len(problems)} problems:\n" + "\n".join(problems[:20])
    assert len(report.answered) >= chaos.ENOUGH, "hardly anything was tried"
    assert len(report.kills) == 3, "not every server was killed"
    assert min(report.kills.values()) >= chaos.ENOUGH_KILLS
