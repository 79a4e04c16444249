"""What happens after a process has ended: a pure decision."""

from __future__ import annotations

from dataclasses import dataclass

from mcpcp.config import RestartPolicy
from mcpcp.fleet import ProcessState


@dataclass(frozen=True, slots=True)
class End:
    """How a life ended: `code` is None when it never began, `ready_for` None when it never served.

    `ready_for` is in seconds.
    """

    code: int | None
    ready_for: float | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where the process stands now; `delay` in seconds until the next try, None for none.

    `failures` counts failed starts in a row, and goes into the next decision.
    """

    state: ProcessState
    delay: float | None
    failures: int


def judge(policy: RestartPolicy, failures: int, end: End, spread: float) -> Verdict:
    """Decide after `failures` failed starts in a row; `spread` in [0, 1) jitters the delay."""
    if policy.when == "never" or (policy.when == "on-failure" and end.code == 0):
        return Verdict(ProcessState.EXITED, None, failures)
    if end.ready_for is not None and end.ready_for >= policy.stable_after:
        return Verdict(ProcessState.BACKOFF, 0.0, 0)
    failures += 1
    if failures >= policy.burst:
        return Verdict(ProcessState.FATAL, policy.slow_retry * _jitter(spread), failures)
    # The exponent is bounded: a burst may be configured as large as one likes.
    delay = min(policy.max_backoff, policy.backoff * 2.0 ** min(failures - 1, 60))
    return Verdict(ProcessState.BACKOFF, delay * _jitter(spread), failures)


def _jitter(spread: float) -> float:
    """Servers that fell together must not rise together."""
    return 0.75 + spread / 2
