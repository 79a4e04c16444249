"""Differences that are right, each with its reason. Everything else fails the tests."""

from __future__ import annotations

from tests.conformance.checks import Difference
from tests.conformance.stage import Behind

_NO_POLLING = "over SSE and stdio a server can't send its client away to come back for the answer"

_QUICK = "what is answered at once is answered in JSON, as the specification allows"
_PATIENT = "our stream stays open when the server closes its own: the client need not come back"
_BETTER = "the gateway does what the server itself does not"
_POLLED = (
    ("incoming-sse-event", "INFO", ""),
    ("server-sse-content-type", "", "INFO"),
    ("server-sse-disconnect-resume", "INFO", ""),
    ("server-sse-disconnect-resume", "SUCCESS", ""),
    ("server-sse-priming-event", "WARNING", ""),
    ("server-sse-priming-event", "SUCCESS", ""),
    ("server-sse-retry-field", "WARNING", ""),
    ("server-sse-retry-field", "SUCCESS", ""),
    ("stream-closed", "INFO", ""),
)
"""What the polling scenario looks for in the stream of a call that takes its time."""
_EVERYWHERE: tuple[Behind, ...] = ("http", "sse", "stdio")

ACCEPTED: dict[tuple[Behind, str, str, str], str] = {
    ("http", "server-sse-disconnect-resume", "SUCCESS", "INFO"): _PATIENT,
    ("sse", "server-sse-disconnect-resume", "SUCCESS", "INFO"): _NO_POLLING,
    ("stdio", "server-sse-disconnect-resume", "SUCCESS", "INFO"): _NO_POLLING,
    **{(b, "server-sse-streams-functional", "SUCCESS", "INFO"): _QUICK for b in _EVERYWHERE},
    **{(b, "server-sse-priming-event", "WARNING", "SUCCESS"): _BETTER for b in _EVERYWHERE},
    **{(b, "server-sse-retry-field", "WARNING", "SUCCESS"): _BETTER for b in _EVERYWHERE},
    ("sse", "(scenario)", "3 passed, 0 failed", "0 passed, 0 failed"): _QUICK,
    ("sse", "(scenario)", "0 passed, 0 failed", "0 passed, 0 failed"): _QUICK,
    # Over SSE the polling tool has nothing to wait for, and answers at once.
    **{("sse", check, direct, through): _QUICK for check, direct, through in _POLLED},
}
"""(behind, check, directly, through the gateway): why."""


def wrong(behind: Behind, found: list[Difference]) -> list[Difference]:
    """The differences that are not accepted."""
    return [
        one
        for one in found
        if (behind, one.id, one.direct or "", one.through or "") not in ACCEPTED
    ]
