"""The secrets by which servers know who calls: each server has its own, all come from the fleet's.

The gateway knows the fleet's secret and so may call every server; a server knows its own, and those
of the servers that its entry's `calls` names.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping


def credential_for(fleet_secret: str, server: str) -> str:
    """What a caller must show to `server`."""
    return hmac.new(fleet_secret.encode(), server.encode(), hashlib.sha256).hexdigest()


def lent(fleet_secret: str, server: str, calls: Mapping[str, str]) -> bytes:
    """What `server` is told: its own secret, then a line for each server that it may call.

    `calls` are base addresses by name.
    """
    lines = [credential_for(fleet_secret, server)]
    for name, url in calls.items():
        secret = credential_for(fleet_secret, name)
        lines.append(json.dumps({"name": name, "url": url, "secret": secret}))
    return "\n".join(lines).encode() + b"\n"
