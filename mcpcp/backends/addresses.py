"""Where a server's name leads: the addresses of its replicas, and which is asked next.

A name with several addresses is a service with replicas (a headless Service, `tasks.NAME` in Swarm,
a scaled service in Compose). A balancer in front of it would see our kept-alive connections only,
not the calls on them, so the choice for each call is made here.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

RESOLVE_EVERY: Final = 5.0
"""Seconds that the addresses of a name are used before it is looked up again."""

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


async def look_up(host: str, port: int) -> Sequence[str]:
    """The addresses of a name, of the family that the system prefers; raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(where[0]) for family, _, _, _, where in found if family == found[0][0]]


def order(addresses: Sequence[str], busy: Mapping[str, int], turn: int) -> list[str]:
    """The addresses, those with the least calls under way first, and among equals by turns."""
    first = turn % len(addresses)
    rotated = [*addresses[first:], *addresses[:first]]
    return sorted(rotated, key=lambda address: busy.get(address, 0))


def may_have_replicas(host: str) -> bool:
    """Whether `host` is a name whose addresses may be several servers: no address, not us."""
    if host == "localhost":
        return False  # its two addresses are one machine
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False


class Addresses:
    """A name and its addresses as they were a moment ago."""

    def __init__(self, host: str, port: int, resolve: Resolve) -> None:
        self._host = host
        self._port = port
        self._resolve = resolve
        self._known: list[str] = []
        self._until = float("-inf")
        self._turn = 0

    async def in_turn(self, busy: Mapping[str, int]) -> list[str]:
        """Where to try to connect, the best first; raises OSError where the name has no address."""
        now = asyncio.get_running_loop().time()
        if now >= self._until:
            self._known = list(dict.fromkeys(await self._resolve(self._host, self._port)))
            self._until = now + RESOLVE_EVERY
        self._turn += 1
        return order(self._known, busy, self._turn)

    def doubt(self) -> None:
        """One of them does not answer: look the name up before the next use."""
        self._until = float("-inf")
