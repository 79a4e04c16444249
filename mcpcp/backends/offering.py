"""What a server offers: its lists, page by page, as one Offer."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any, Final

from mcpcp.backends.connection import HANDSHAKE_TIMEOUT, Connection
from mcpcp.catalog import IDENTITY, Kind, Offer
from mcpcp.errors import ProtocolError
from mcpcp.jsonrpc import METHOD_NOT_FOUND, Message, RpcError
from mcpcp.protocol import LIST_CHANGES, META_CLIENT_CAPABILITIES

logger = logging.getLogger(__name__)

MOST_PAGES: Final = 100
CHANGES: Final = frozenset(LIST_CHANGES.values())

_LISTS: Final[dict[Kind, tuple[str, str, str]]] = {
    "tool": ("tools", "tools/list", "tools"),
    "prompt": ("prompts", "prompts/list", "prompts"),
    "resource": ("resources", "resources/list", "resources"),
    "template": ("resources", "resources/templates/list", "resourceTemplates"),
}
"""Each kind's capability, the method that lists it, and the member that holds the list."""


async def list_offer(
    connection: Connection, kinds: Collection[Kind], capabilities: Message | None = None
) -> Offer:
    """What the server offers of `kinds` on `connection`; raises McpcpError.

    `capabilities` are those of the client that we ask for, where each request says so.
    """
    fixed = {"_meta": {META_CLIENT_CAPABILITIES: capabilities}} if capabilities else {}
    lists: dict[Kind, tuple[Message, ...]] = {}
    for kind in kinds:
        if kind == "tool" or _LISTS[kind][0] in connection.capabilities:
            lists[kind] = await _list(connection, kind, fixed)
    return Offer(
        tools=lists.get("tool", ()),
        prompts=lists.get("prompt", ()),
        resources=lists.get("resource", ()),
        templates=lists.get("template", ()) if "template" in kinds else None,
        instructions=connection.instructions,
        capabilities=connection.capabilities,
        modern=connection.modern,
    )


async def _list(connection: Connection, kind: Kind, fixed: Message) -> tuple[Message, ...]:
    _, method, member = _LISTS[kind]
    items: list[Message] = []
    cursor: Any = None
    for _ in range(MOST_PAGES):
        params = fixed if cursor is None else {**fixed, "cursor": cursor}
        try:
            page = await connection.request(method, params, HANDSHAKE_TIMEOUT)
        except RpcError as error:
            if error.error["code"] == METHOD_NOT_FOUND:
                break
            if kind == "tool":
                raise
            logger.warning("%s does not list its %s: %s", connection.server.name, member, error)
            break
        items += _valid_items(page, member, IDENTITY[kind], connection.server.name)
        cursor = page.get("nextCursor")
        if cursor is None:
            break
    return tuple(items)


def _valid_items(page: Any, member: str, identity: str, server: str) -> list[Message]:
    items = page.get(member) if isinstance(page, dict) else None
    if not isinstance(items, list):
        raise ProtocolError(f"the server's list of {member} is no list")
    good = [i for i in items if isinstance(i, dict) and isinstance(i.get(identity), str)]
    if len(good) < len(items):
        lost = len(items) - len(good)
        logger.warning("%s: ignored %d %s that have no %s", server, lost, member, identity)
    return good
