"""The secrets by which servers know who calls: each server has its own, all come from the fleet's.

The gateway knows the fleet's secret and so may call every server; a server knows its own, and those
of the servers that its entry's `calls` names.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any


def credential_for(fleet_secret: str, server: str) -> str:
    """What a caller must show to `server`."""
    return hmac.new(fleet_secret.encode(), server.encode(), hashlib.sha256).hexdigest()


def lent(
    fleet_secret: str, server: str, calls: Mapping[str, str], scrape: str | None = None
) -> bytes:
    """What `server` is told: a line with its own secret, and one of JSON with those for others.

    `calls` are the base addresses of the servers that it may call, by name; `scrape` is what a
    reader of its metrics will show.
    """
    more: dict[str, Any] = {} if scrape is None else {"scrape": scrape}
    more["calls"] = {
        name: {"url": url, "secret": credential_for(fleet_secret, name)}
        for name, url in calls.items()
    }
    own = credential_for(fleet_secret, server)
    return f"{own}\n{json.dumps(more)}\n".encode()
