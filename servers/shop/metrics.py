"""What the shop counts beside its tools' calls: orders and sign-ins, and how they ended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from prometheus_client import Counter, Histogram

from servers.plumbing.metrics import REGISTRY
from servers.shop.errors import DatabaseTrouble, Refused

OUTCOMES: Final = ("done", "refused", "database", "unfinished")

_checkouts = Counter("shop_checkouts", "Orders by outcome.", ["outcome"], registry=REGISTRY)
_checkout_times = Histogram(
    "shop_checkout_duration_seconds", "From place_order to its answer.", registry=REGISTRY
)
_sign_ins = Counter("shop_sign_ins", "Sign-ins by outcome.", ["outcome"], registry=REGISTRY)
for _counter in (_checkouts, _sign_ins):
    for _outcome in OUTCOMES:  # the first of each is then a rise that `rate` sees
        _counter.labels(_outcome)


@contextmanager
def checkout() -> Iterator[None]:
    """An order that is being placed."""
    began = time.monotonic()
    try:
        with _counted(_checkouts):
            yield
    finally:
        _checkout_times.observe(time.monotonic() - began)


@contextmanager
def sign_in() -> Iterator[None]:
    """Somebody who signs in."""
    with _counted(_sign_ins):
        yield


@contextmanager
def _counted(counter: Counter) -> Iterator[None]:
    outcome = "unfinished"
    try:
        yield
        outcome = "done"
    except Refused:
        outcome = "refused"
        raise
    except DatabaseTrouble:
        outcome = "database"
        raise
    finally:
        counter.labels(outcome).inc()
