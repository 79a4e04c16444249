"""A server sees of a client that comes through the gateway what it sees of one that comes directly.

The tool plays the server. README.md says what each scenario proves for a gateway.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance import suite
from tests.conformance.accepted import wrong
from tests.conformance.checks import differences, render

pytestmark = [pytest.mark.npm, pytest.mark.timeout(1800)]


@pytest.mark.parametrize(
    ("run", "scenario"),
    [pytest.param(*each, id=f"{each[0]}-{each[1]}") for each in suite.CLIENT_RUNS],
)
def test_a_server_sees_no_difference(keys: Path, run: suite.Run, scenario: str) -> None:
    direct = suite.check_client(run, scenario)
    found = wrong("client", differences(direct, suite.check_client(run, scenario, keys)))
    assert not found, f"\n{render(found)}"
    assert not direct.bad()
