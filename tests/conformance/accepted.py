"""Differences that are right, each with its reason. Everything else fails the tests."""

from __future__ import annotations

from tests.conformance.checks import Difference
from tests.conformance.stage import Behind

_NO_POLLING = "over SSE and stdio a server can't send its client away to come back for the answer"

ACCEPTED: dict[tuple[Behind, str, str, str], str] = {
    ("sse", "server-sse-disconnect-resume", "SUCCESS", "INFO"): _NO_POLLING,
    ("stdio", "server-sse-disconnect-resume", "SUCCESS", "INFO"): _NO_POLLING,
}
"""(behind, check, directly, through the gateway): why."""


def wrong(behind: Behind, found: list[Difference]) -> list[Difference]:
    """The differences that are not accepted."""
    return [
        one
        for one in found
        if (behind, one.id, one.direct or "", one.through or "") not in ACCEPTED
    ]
