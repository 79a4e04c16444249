"""The shop under fire, shortly; benchmarks/shop_chaos.py does it for long."""

from __future__ import annotations

from tests import shop_chaos as chaos
from tests.fleet import Fleet

SECONDS = 8.0


def test_servers_and_database_are_killed_and_nothing_is_lost(fleet: Fleet) -> None:
    report = chaos.run(fleet, SECONDS, seed=1)
    assert sum(report.kills.values()) >= chaos.LEAST_KILLS, report
    assert len(report.placed) >= chaos.LEAST_ORDERS, report
