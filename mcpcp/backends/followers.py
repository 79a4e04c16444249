"""Followers: who follows which resource of a server on the connection that clients share.

A resource is subscribed to once, however many follow it, and unsubscribed from when the last one
has left. What is said of one resource is said in turn: over HTTP each message is a request of its
own, and an end that overtakes the next beginning would be the end of both.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

from mcpcp.errors import McpcpError
from mcpcp.jsonrpc import Message, RpcError

Told = Callable[[Message], None]
Say = Callable[[str, str], Awaitable[Any]]
"""Sends a request of that method about that URI."""

SUBSCRIBE: Final = "resources/subscribe"
UNSUBSCRIBE: Final = "resources/unsubscribe"
_BOUNDARY: Final = re.compile(r"[/?#]")


class _Resource:
    """A resource that is followed; `known` is whether the server knows that, `turn` whose it is
    to tell it."""

    __slots__ = ("known", "told", "turn")

    def __init__(self) -> None:
        self.told: dict[object, Told] = {}
        self.known = False
        self.turn = asyncio.Lock()


class Followers:
    """`changed` is called when another resource is followed, or one is not any more."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._resources: dict[str, _Resource] = {}
        self._left = asyncio.Event()

    @property
    def uris(self) -> list[str]:
        """What is followed."""
        return sorted(uri for uri, resource in self._resources.items() if resource.told)

    def add(self, uri: str, told: Told) -> Callable[[], None]:
        """Have `told` called with each update of `uri`; returns what ends that."""
        resource = self._resources.setdefault(uri, _Resource())
        key = object()
        resource.told[key] = told
        if len(resource.told) == 1:
            self._changed()

        def leave() -> None:
            if resource.told.pop(key, None) is not None and not resource.told:
                self._left.set()
                self._changed()

        return leave

    async def subscribe(self, uri: str, say: Say) -> None:
        """Tell the server of a resource that was added, unless it knows; raises McpcpError."""
        resource = self._resources[uri]
        async with resource.turn:
            if resource.known:
                return
            resource.known = True  # it may be, also where the answer is not waited for
            try:
                await say(SUBSCRIBE, uri)
            except McpcpError:
                resource.known = False
                raise

    async def renew(self, say: Say) -> None:
        """Tell a server that knows nothing of all that is followed.

        Nobody's turn is waited for: whoever has it may be waiting for this very server.
        """
        for resource in self._resources.values():
            resource.known = False
        for uri in self.uris:
            with contextlib.suppress(RpcError):
                await say(SUBSCRIBE, uri)
                self._resources[uri].known = True

    async def keep(self, say: Say) -> None:
        """Tell the server, until cancelled, what came while it was renewed, and what has ended."""
        for uri in self.uris:
            with contextlib.suppress(McpcpError):
                await self.subscribe(uri, say)
        while True:
            self._left.clear()
            for uri, resource in list(self._resources.items()):
                if not resource.told:
                    await self._part_from(uri, resource, say)
            await self._left.wait()

    async def _part_from(self, uri: str, resource: _Resource, say: Say) -> None:
        async with resource.turn:
            if resource.known and not resource.told:
                resource.known = False
                with contextlib.suppress(McpcpError):
                    await say(UNSUBSCRIBE, uri)
            if not resource.told:  # nobody has come meanwhile, and waits for the turn
                del self._resources[uri]

    def forget(self) -> None:
        """Drop what nobody follows, where the server is told of all at once."""
        self._resources = {uri: one for uri, one in self._resources.items() if one.told}

    def tell(self, uri: str, message: Message) -> None:
        """Hand an update on; it may be of a part of what is followed."""
        for followed in _wholes(uri):
            if (resource := self._resources.get(followed)) is not None:
                for told in list(resource.told.values()):
                    told(message)


def _wholes(uri: str) -> Iterator[str]:
    """The URI itself, and those that it may be a part of: of a/b/c those are a/b/, a/b, a/, a."""
    yield uri
    for boundary in reversed(list(_BOUNDARY.finditer(uri))):
        yield from dict.fromkeys(uri[:end] for end in boundary.span()[::-1] if 0 < end < len(uri))
