"""What the chat service needs, and how that stands now: its gateway and its language model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from mcpcp.chat.llm import LOOK_TIMEOUT, Llm
from mcpcp.chat.mcpclient import McpClient
from mcpcp.errors import McpcpError, ModelError, TokenError

KEPT: Final = 2.0
"""Seconds for which what was seen is told again: anybody may ask, as often as they like."""

State = dict[str, Any]


class Dependencies:
    """Looks at both at once; `own_token` gives the service's own token, or raises McpcpError."""

    def __init__(self, llm: Llm, gateway: McpClient, own_token: Callable[[], str]) -> None:
        self._llm = llm
        self._gateway = gateway
        self._own_token = own_token
        self._turn = asyncio.Lock()
        self._seen: dict[str, State] = {}
        self._seen_at = float("-inf")

    async def look(self) -> dict[str, State]:
        """The state of each by its name: `ready`, or what is wrong and what can be done."""
        async with self._turn:
            if time.monotonic() - self._seen_at > KEPT:
                gateway, llm = await asyncio.gather(self._look_at_gateway(), self._look_at_llm())
                self._seen = {"gateway": gateway, "llm": llm}
                self._seen_at = time.monotonic()
            return self._seen

    async def _look_at_gateway(self) -> State:
        async def look() -> State:
            tools = await self._gateway.tools(self._own_token(), LOOK_TIMEOUT)
            return {"tools": len(tools)}

        return {"url": self._gateway.url, **await _state(look)}

    async def _look_at_llm(self) -> State:
        settings = self._llm.settings

        async def look() -> State:
            await self._llm.check()
            return {}

        return {"url": settings.shown_url, "model": settings.model, **await _state(look)}


async def _state(look: Callable[[], Awaitable[State]]) -> State:
    try:
        return {"state": "ready", **await look()}
    except ModelError as error:
        return {"state": error.kind, "detail": str(error)}
    except TokenError as error:
        return {"state": "token_refused", "detail": str(error)}
    except McpcpError as error:
        return {"state": "unreachable", "detail": str(error)}
