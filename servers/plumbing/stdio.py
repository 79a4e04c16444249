"""MCP over the process's own pipes."""

from __future__ import annotations

import logging
import os
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import anyio.to_thread
from mcp.server.mcpserver import MCPServer

from servers.plumbing.calls import Calls
from servers.plumbing.http import DRAIN_SECONDS
from servers.plumbing.patience import settled

logger = logging.getLogger(__name__)


async def serve_stdio(
    server: MCPServer[Any],
    calls: Calls,
    background: AbstractAsyncContextManager[object],
    stop: anyio.Event,
) -> None:
    """Serve until stdin ends; on `stop`, or when `background` fails, the process exits from here.

    It has to: the SDK's reader sits in a thread on stdin and can't be woken. While it serves, the
    SDK points fd 1 at stderr, so a stray print does not reach the wire.
    """
    ended = anyio.Event()

    async def speak() -> None:
        try:
            await server.run_stdio_async()
        finally:
            ended.set()
            stop.set()

    async with anyio.create_task_group() as tasks:
        try:
            async with background:
                tasks.start_soon(speak)
                await stop.wait()
                if not ended.is_set():
                    await _drain(calls)
        except Exception:
            logger.exception("the server's background work failed")
            _leave(1)
        if not ended.is_set():
            _leave(0)


async def _drain(calls: Calls) -> None:
    logger.info("stopping")
    await calls.drain(DRAIN_SECONDS)
    await settled(_writing)


def _writing() -> bool:
    """Whether a thread besides the SDK's reader is at work: its writer is one, too."""
    return anyio.to_thread.current_default_thread_limiter().borrowed_tokens > 1


def _leave(code: int) -> None:
    logging.shutdown()
    os._exit(code)
