"""A server sees of a client that comes through the gateway what it sees of one that comes directly.

The tool plays the server. README.md says what each scenario proves for a gateway.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conformance import suite
from tests.conformance.checks import differences, render

pytestmark = [pytest.mark.npm, pytest.mark.timeout(400)]

WORKS = {
    ("2025-06-18", "initialize"),
    ("2025-06-18", "tools_call"),
    ("2025-11-25", "initialize"),
    ("2025-11-25", "tools_call"),
    ("2025-11-25", suite.ECHO),
    ("2025-11-25", "elicitation-sep1034-client-defaults"),
    ("2025-11-25", "sse-retry"),
    ("2026-07-28", "tools_call"),
    ("2026-07-28", "json-schema-2020-12-preservation"),
    ("2026-07-28", "http-custom-headers"),
    ("2026-07-28", "http-invalid-tool-headers"),
    ("2026-07-28", "sep-2322-client-request-state"),
    ("2026-07-28", "json-schema-ref-no-deref"),
}
PENDING = "the gateway introduces itself to a server on its own account as well"


def case(run: suite.Run, scenario: str) -> Any:
    works = (run.revision, scenario) in WORKS
    marks = () if works else pytest.mark.xfail(strict=True, reason=PENDING)
    return pytest.param(run, scenario, id=f"{run}-{scenario}", marks=marks)


@pytest.mark.parametrize(("run", "scenario"), [case(*each) for each in suite.CLIENT_RUNS])
def test_a_server_sees_no_difference(keys: Path, run: suite.Run, scenario: str) -> None:
    direct = suite.check_client(run, scenario)
    found = differences(direct, suite.check_client(run, scenario, keys))
    assert not found, f"\n{render(found)}"
    assert not direct.bad()
