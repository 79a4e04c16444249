"""Where a server's calls may go: the addresses of its replicas, and which is asked next.

A name with several addresses is a service with replicas (a headless Service, `tasks.NAME` in Swarm,
a scaled service in Compose); a command with `replicas` has a port for each. A balancer in front of
them would see our kept-alive connections only, not the calls on them, so the choice for each call
is made here. All connections to one server share what is known of their load.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol
from urllib.parse import urlsplit

RESOLVE_EVERY: Final = 5.0
"""Seconds that the addresses of a name are used before it is looked up again."""
MOST_HOMES: Final = 10_000
"""Half-done calls whose replica is remembered; those of clients that never came back go first."""

Address = tuple[str, int]
"""An address and a port."""
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


async def look_up(host: str, port: int) -> Sequence[str]:
    """The addresses of a name, of the family that the system prefers; raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(where[0]) for family, _, _, _, where in found if family == found[0][0]]


def order(addresses: Sequence[Address], load: Mapping[Address, int], turn: int) -> list[Address]:
    """The addresses, those with the least to do first, and among equals by turns."""
    if len(addresses) < 2:
        return list(addresses)
    first = turn % len(addresses)
    rotated = [*addresses[first:], *addresses[:first]]
    return sorted(rotated, key=lambda address: load.get(address, 0))


def may_have_replicas(host: str) -> bool:
    """Whether `host` is a name whose addresses may be several servers: no address, not us."""
    if host == "localhost":
        return False  # its two addresses are one machine
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False


class Source(Protocol):
    """Who knows the addresses."""

    async def addresses(self) -> Sequence[Address]:
        """Where the server is now; raises OSError where that can't be found out."""

    def doubt(self) -> None:
        """One of them does not answer."""


class Named:
    """The addresses of a name, as they were a moment ago."""

    def __init__(self, host: str, port: int, resolve: Resolve = look_up) -> None:
        self._host = host
        self._port = port
        self._resolve = resolve
        self._known: list[Address] = []
        self._until = float("-inf")

    async def addresses(self) -> Sequence[Address]:
        """See Source."""
        now = asyncio.get_running_loop().time()
        if now >= self._until:
            found = await self._resolve(self._host, self._port)
            self._known = [(address, self._port) for address in dict.fromkeys(found)]
            self._until = now + RESOLVE_EVERY
        return self._known

    def doubt(self) -> None:
        """Look the name up before the next use."""
        self._until = float("-inf")


class Started:
    """The processes of a command: whoever starts them says which of them run."""

    def __init__(self, running: Callable[[], Sequence[Address]]) -> None:
        self._running = running

    async def addresses(self) -> Sequence[Address]:
        """See Source."""
        return self._running()

    def doubt(self) -> None:
        """Nothing to do: word of a death comes by itself."""


class Addresses:
    """The addresses of one server, how many calls are under way at each, and how many sessions."""

    def __init__(self, source: Source) -> None:
        self.calls: Counter[Address] = Counter()
        self.sessions: Counter[Address] = Counter()
        self._source = source
        self._turn = 0
        self._homes: OrderedDict[int, Address] = OrderedDict()

    async def in_turn(self, load: Mapping[Address, int]) -> list[Address]:
        """Where to try to connect, the best first; raises OSError where there is no address.

        `load` is what shall be spread evenly.
        """
        addresses = await self._source.addresses()
        if not addresses:
            raise ConnectionError("no process of it is running")
        self._turn += 1
        return order(addresses, load, self._turn)

    def doubt(self) -> None:
        """One of them does not answer."""
        self._source.doubt()

    # A call that asked its client something goes on in the process that knows what it has asked.

    def remember(self, state: str, address: Address) -> None:
        """The replica at `address` gave out that `requestState`."""
        self._homes[hash(state)] = address
        if len(self._homes) > MOST_HOMES:
            self._homes.popitem(last=False)

    def home(self, state: object) -> Address | None:
        """Which replica gave out that `requestState`; None where that is not known (any more).

        It stays known: a client may answer once more, where the first answer was lost.
        """
        return self._homes.get(hash(state)) if isinstance(state, str) else None


def addresses_of(url: str, resolve: Resolve = look_up) -> Addresses | None:
    """What is behind a URL whose host is a name; None where it can be one server only."""
    parts = urlsplit(url)
    host = parts.hostname or "localhost"
    if not may_have_replicas(host):
        return None
    return Addresses(Named(host, parts.port or (443 if parts.scheme == "https" else 80), resolve))
