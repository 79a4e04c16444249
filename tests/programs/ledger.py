"""A tool server that keeps a ledger: what ran is on disk before it is answered.

Each call appends its id to a file and has it written through; `before` and `after` are seconds that
a call takes on either side of that, so that a kill meets calls in every state.
"""

from __future__ import annotations

import asyncio
import os

from mcp.server.mcpserver import MCPServer
from mcp_types import ToolAnnotations

from servers.serving import serve

server = MCPServer("ledger")


async def write(file: str, id: str, before: float, after: float) -> str:
    await asyncio.sleep(before)
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"{id}\n".encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    await asyncio.sleep(after)
    return f"wrote {id}"


@server.tool()
async def once(file: str, id: str, before: float = 0, after: float = 0) -> str:
    """Append `id`; a second time would be one too many."""
    return await write(file, id, before, after)


@server.tool(annotations=ToolAnnotations(idempotent_hint=True))
async def again(file: str, id: str, before: float = 0, after: float = 0) -> str:
    """Append `id`, and say that a second time does no harm."""
    return await write(file, id, before, after)


if __name__ == "__main__":
    serve(server)
