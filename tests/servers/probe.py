"""A server whose tools show what `servers.serving` does; the tests start it as a script."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from mcp.server.mcpserver import Context, MCPServer

from servers.serving import Health, add_echo, current_agent, serve

server: MCPServer[Any] = MCPServer("probe")
add_echo(server)
logger = logging.getLogger("probe")
entered = 0


@asynccontextmanager
async def background() -> AsyncIterator[None]:
    global entered
    entered += 1
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fail_when_asked)
        yield
    if "PROBE_LEFT" in os.environ:
        await anyio.Path(os.environ["PROBE_LEFT"]).write_text("left")


async def fail_when_asked() -> None:
    if "PROBE_FAILS" in os.environ:
        raise RuntimeError("the background work broke")


@server.tool()
async def whoami(ctx: Context[Any, Any]) -> str:
    return current_agent(ctx) or "nobody"


@server.tool()
async def environment() -> list[str]:
    return [name for name in os.environ if name.startswith("MCPCP_")]


@server.tool()
async def stray() -> str:
    print("not JSON-RPC", flush=True)
    os.write(1, b"nor is this\n")
    return "printed"


@server.tool()
async def crash() -> str:
    raise RuntimeError("a secret in a message")


@server.tool()
async def times_entered() -> int:
    return entered


@server.tool()
def tell_the_log(text: str) -> str:
    """In a thread of its own, as every tool that is no coroutine."""
    logger.info("told %s", text)
    return "told"


@server.tool()
async def hold(ctx: Context[Any, Any], seconds: float) -> str:
    await ctx.report_progress(0.0)
    await anyio.sleep(seconds)
    return "held"


def health() -> Health:
    detail = os.environ.get("PROBE_DEGRADED")
    if detail == "raise":
        raise RuntimeError("the check broke")
    return Health("degraded", detail) if detail else Health()


if __name__ == "__main__":
    serve(server, port=0, health=health, background=background)
