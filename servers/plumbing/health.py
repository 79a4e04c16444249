"""What a script says about itself at /health."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Health:
    """`degraded` means: it serves, but something it needs is missing; `detail` says what."""

    status: Literal["ok", "degraded"] = "ok"
    detail: str | None = None

    @classmethod
    def without(cls, missing: str | None) -> Health:
        """Degraded where something is missing; None is ok."""
        return cls("degraded", missing) if missing else cls()


HealthCheck = Callable[[], Health]


def report(name: str, check: HealthCheck | None) -> dict[str, str | int]:
    """The body of /health; a check that fails is a degraded server, not a dead one."""
    try:
        health = check() if check else Health()
    except Exception:
        logger.exception("the health check failed")
        health = Health("degraded", "the health check itself failed")
    body: dict[str, str | int] = {"status": health.status, "name": name, "pid": os.getpid()}
    if health.detail:
        body["detail"] = health.detail
    return body
