"""What the gateway says of itself and of what is on offer; pure functions over one agent's view."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Any, Final

from mcpcp import __version__
from mcpcp.catalog import Kind, View
from mcpcp.jsonrpc import INVALID_PARAMS, Message, RpcError
from mcpcp.protocol import (
    LATEST_LEGACY,
    LEGACY_VERSIONS,
    LIST_CHANGES,
    META_SERVER_INFO,
    MODERN_VERSIONS,
)
from mcpcp.verbatim import Verbatim

SERVER_INFO: Final = {"name": "mcpcp", "title": "mcpcp gateway", "version": __version__}
PAGE: Final = 1000
"""Definitions on one page: many, as a second page is what many clients never ask for."""
MEMBERS: Final[dict[Kind, str]] = {
    "tool": "tools",
    "prompt": "prompts",
    "resource": "resources",
    "template": "resourceTemplates",
}
_MERGED: Final = ("tools", "prompts", "resources", "logging", "completions")
_ALL: Final[Message] = {
    "prompts": {},
    "resources": {"subscribe": True},
    "logging": {},
    "completions": {},
}
_LISTED: Final = ("tools", "prompts", "resources")


def page(view: View, kind: Kind, cursor: Any, version: int) -> Message:
    """One page of a list; a cursor is good for the catalog `version` that it came from."""
    listing = view.listings[kind]
    total = len(listing.entries)
    if cursor is None and total <= PAGE:
        return {MEMBERS[kind]: listing.json}
    start = _offset(cursor, version, total)
    result: Message = {MEMBERS[kind]: listing.definitions[start : start + PAGE]}
    if start + PAGE < total:
        text = f"{version}:{start + PAGE}"
        result["nextCursor"] = base64.urlsafe_b64encode(text.encode()).decode()
    return result


def _offset(cursor: Any, version: int, total: int) -> int:
    if cursor is None:
        return 0
    try:
        made, _, start = base64.b64decode(str(cursor), b"-_", validate=True).decode().partition(":")
        if int(made) == version and 0 <= int(start) < total:
            return int(start)
    except (binascii.Error, ValueError):
        pass
    raise RpcError(INVALID_PARAMS, "Invalid cursor: the list has changed, begin again")


def legacy_hello(view: View, params: Message, *, expecting: bool) -> Message:
    """The result of `initialize`; for `expecting` see `capabilities`."""
    wanted = params.get("protocolVersion")
    result = {
        "protocolVersion": wanted if wanted in LEGACY_VERSIONS else LATEST_LEGACY,
        "capabilities": capabilities(view, expecting=expecting),
        "serverInfo": SERVER_INFO,
    }
    return _with_instructions(result, view)


def modern_hello(view: View, *, expecting: bool) -> Message:
    """The result of `server/discover`; for `expecting` see `capabilities`."""
    result = {
        "supportedVersions": list(MODERN_VERSIONS),
        "capabilities": capabilities(view, expecting=expecting),
    }
    return _with_instructions(cacheable(result), view)


def capabilities(view: View, *, expecting: bool) -> Message:
    """The union of what the view's servers can; tools always, as they may come later.

    While a server that was never seen is `expecting`, all that it may turn out to have is promised:
    a client asks but once. What we do not know can't be routed among several servers, so it is
    offered only for one alone.
    """
    alone = len(view.servers) == 1
    found = {k: v for k, v in view.capabilities.items() if alone or k in _MERGED}
    found.setdefault("tools", {})
    if expecting:
        found = {**_ALL, **found}
    for name in _LISTED:
        if isinstance(found.get(name), dict):
            found[name] = {**found[name], "listChanged": True}
    return found


def cacheable(result: Message) -> Message:
    """What the modern era demands of lists; a list filtered by token is never shared."""
    return {
        **result,
        "resultType": "complete",
        "ttlMs": 0,
        "cacheScope": "private",
        "_meta": {META_SERVER_INFO: SERVER_INFO},
    }


def in_era(result: Any, method: str, modern: bool) -> Any:
    """A server's result as the client's era writes it."""
    if type(result) is Verbatim:
        if result.modern == modern:
            return result
        if modern:
            return result.modernized(_modern_members(method))
        result = result.read()
    if not isinstance(result, dict):
        return result
    if modern:
        return result if "resultType" in result else {**result, **_modern_members(method)}
    if result.get("resultType") == "complete":
        return {k: v for k, v in result.items() if k not in _MODERN_ONLY}
    return result


_MODERN_ONLY: Final = frozenset({"resultType", "ttlMs", "cacheScope"})


def _modern_members(method: str) -> Message:
    if method == "resources/read":
        return {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
    return {"resultType": "complete"}


def _with_instructions(result: Message, view: View) -> Message:
    return {**result, "instructions": view.instructions} if view.instructions else result


class Shown:
    """What a client has been shown, so that it hears of changes in its own view, and only there.

    `listed` are the kinds that it has listed: who has not seen a list hears of none that differs.
    """

    def __init__(self, view: View, listed: Iterable[Kind] = ()) -> None:
        self._listed = set(listed)
        self._take(view)

    def saw(self, view: View, kind: Kind) -> None:
        """The client has listed that kind in `view`."""
        self._listed.add(kind)
        self._listings[kind] = view.listings[kind]

    def changes(self, view: View) -> list[str]:
        """The notifications that lead from what was shown last to `view`, shown from now on."""
        changed = {
            LIST_CHANGES["resource" if kind == "template" else kind]: None
            for kind, listing in view.listings.items()
            if kind in self._listed
            and listing.definitions != self._listings[kind].definitions
            # Templates that are listed now, and were not before, are no change.
            and not (kind == "template" and view.unlisted != self._unlisted)
        }
        for server, counts in view.announced.items():
            earlier = self._announced.get(server, {})
            changed |= {change: None for change, n in counts.items() if n > earlier.get(change, 0)}
        self._take(view)
        return list(changed)

    def _take(self, view: View) -> None:
        self._listings = dict(view.listings)
        self._announced, self._unlisted = view.announced, view.unlisted
