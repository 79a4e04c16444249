"""The shop under fire, shortly; benchmarks/shop_chaos.py does it for long."""

from __future__ import annotations

import pytest

from tests import shop_chaos as chaos
from tests.fleet import Fleet

SECONDS = 8.0


@pytest.mark.timeout(1200)
def test_servers_and_database_are_killed_and_nothing_is_lost(fleet: Fleet) -> None:
    report = chaos.run(fleet, SECONDS, seed=1)
    assert report.says_something, report
