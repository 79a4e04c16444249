"""Gateways that share a Redis: who they are, where they listen, and the key that all sign with.

A session, or a call that waits for its client, lives in one gateway. Its id names that gateway, so
that whichever a load balancer picks can pass the request on.
"""

from __future__ import annotations

import secrets
import socket
from typing import Final

from mcpcp.state.connection import PREFIX, Redis

ALIVE: Final = f"{PREFIX}gateway:"
"""What the keys begin with that hold each gateway's address; they run out by themselves."""

LEASE: Final = 10
"""Seconds after which a gateway that says nothing is gone."""

_KEY: Final = f"{PREFIX}requeststate:key"
_SEPARATOR: Final = "-"


class Peers:
    """This gateway among its peers; `address` is where they reach it."""

    def __init__(self, store: Redis, port: int) -> None:
        self._store = store
        self.instance = secrets.token_hex(8)
        with store.needed("the gateways' common key can't be read"):
            store.sync.set(_KEY, secrets.token_hex(32), nx=True)
            self.key = bytes.fromhex(str(store.sync.get(_KEY)))
            self.host = _own_side(store)
        at = f"[{self.host}]" if ":" in self.host else self.host
        self.address = f"http://{at}:{port}"

    def id(self) -> str:
        """A new id that names this gateway."""
        return f"{self.instance}{_SEPARATOR}{secrets.token_hex(16)}"

    def elsewhere(self, session_id: str | None) -> str | None:
        """The other gateway that an id names, None where it names none or us."""
        instance, found, _ = (session_id or "").partition(_SEPARATOR)
        return instance if found and instance != self.instance else None

    async def address_of(self, instance: str) -> str | None:
        """Where that gateway listens, None where it is gone; raises what redis-py raises."""
        found: str | None = await self._store.waiting.get(ALIVE + instance)
        return found


def _own_side(store: Redis) -> str:
    """Our address on the network on which Redis is, and so the other gateways are."""
    at = store.sync.connection_pool.connection_kwargs
    host, port = at.get("host"), at.get("port", 6379)
    if host is None:
        return "127.0.0.1"  # a unix socket: all gateways are on this machine
    family, kind, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(where)  # nothing is sent: this only asks which way it would go
        return str(probe.getsockname()[0])
