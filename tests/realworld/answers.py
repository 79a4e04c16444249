"""What a client gets from a server, in a form that can be compared."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import Any

from mcp.shared.exceptions import MCPError
from pydantic import BaseModel

from tests.realworld.servers import Call


def plain(value: BaseModel) -> Any:
    """As it was on the wire, but for the names that a gateway puts before a tool's."""
    return value.model_dump(mode="json", by_alias=True, exclude_none=True)


async def outcome(request: Awaitable[Any]) -> Any:
    """The result, or the error, of a request."""
    try:
        return plain(await request)
    except MCPError as error:
        return {"code": error.code, "message": error.message}


async def tools(client: Any, prefix: str = "") -> dict[str, Any]:
    """The definitions of every tool with this prefix, by the server's own names."""
    found: dict[str, Any] = {}
    cursor = None
    while True:
        page = await client.list_tools(cursor=cursor)
        for tool in page.tools:
            if tool.name.startswith(prefix):
                name = tool.name.removeprefix(prefix)
                found[name] = {**plain(tool), "name": name}
        if (cursor := page.next_cursor) is None:
            return found


async def answers(client: Any, calls: Iterable[Call], prefix: str = "") -> list[Any]:
    """The outcome of each call, one after the other."""
    return [await outcome(client.call_tool(prefix + name, given)) for name, given in calls]
