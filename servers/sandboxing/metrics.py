"""What the sandbox counts: runs by how they ended, their times, and sandboxes that wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, get_args

from prometheus_client import Counter, Gauge, Histogram

from servers.plumbing.metrics import REGISTRY
from servers.sandboxing.outcome import Status

CANCELLED: Final = "cancelled"
"""How a run ended whose caller went away; no outcome is made of it."""

_BUCKETS: Final = (0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

_runs = Counter("sandbox_calls", "Runs by how they ended.", ["status"], registry=REGISTRY)
_times = Histogram(
    "sandbox_call_duration_seconds",
    "From a run's call to its outcome, waiting included.",
    buckets=_BUCKETS,
    registry=REGISTRY,
)
_ready = Gauge("sandbox_pool_ready", "Sandboxes that wait for code.", registry=REGISTRY)
for _status in (*get_args(Status), CANCELLED):
    _runs.labels(_status)


class Run:
    """One run: counted when its context ends, as `status` says then."""

    def __init__(self) -> None:
        self.status: str = CANCELLED
        self._began = time.monotonic()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exc_info: object) -> None:
        _runs.labels(self.status).inc()
        _times.observe(time.monotonic() - self._began)


def watch_pool(ready: Callable[[], int]) -> None:
    """Have the gauge show that pool from now on."""
    _ready.set_function(ready)
