"""Differences that are right, each with its reason. Everything else fails the tests."""

from __future__ import annotations

from typing import Literal

from tests.conformance.checks import Difference
from tests.conformance.stage import Behind

_NO_POLLING = "over SSE and stdio a server can't send its client away to come back for the answer"

_OWN_SESSION = "the gateway has a session of its own beside the client's, for what all may see"
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

Side = Behind | Literal["client"]
"""How the server is behind the gateway; or that the tool plays the server."""

ACCEPTED: dict[tuple[Side, str, str, str], str] = {
    ("client", "mcp-client-initialization", "SUCCESS", "2 x SUCCESS"): _OWN_SESSION,
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
"""(side, check, directly, through the gateway): why."""


def wrong(side: Side, found: list[Difference]) -> list[Difference]:
    """The differences that are not accepted."""
    return [
        one for one in found if (side, one.id, one.direct or "", one.through or "") not in ACCEPTED
    ]
