"""What each of the shop's scripts needs: the settings, the store for a call, and its errors."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations

from servers.serving import Health, current_agent, fail, setting
from servers.shop.connection import Connection, Job
from servers.shop.errors import ShopError
from servers.shop.money import check_currency, to_minor
from servers.shop.results import Show

if TYPE_CHECKING:
    from servers.shop.store import Store

DEFAULT_URI: Final = "mongodb://127.0.0.1:9027"
DEFAULT_DATABASE: Final = "shop"

DEADLINE: Final = 25.0
"""Seconds that a call may take: what it began and did not end is ended by the sweep."""

READS = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
ADDS = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False
)
SETS = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
)


class Shop:
    """The shop as a script's tools use it."""

    def __init__(self, connection: Connection, currency: str) -> None:
        self.currency = currency
        self.show = Show(currency)
        self._connection = connection

    @classmethod
    def from_settings(cls, script: str) -> Shop:
        """By the environment; ends the script where that is wrong."""
        try:
            currency = check_currency(setting("SHOP_CURRENCY", "EUR"))
        except ValueError as error:
            fail(script, f"SHOP_CURRENCY: {error}", 2)
        uri = setting("MONGODB_URI", DEFAULT_URI)
        return cls(Connection(uri, setting("MONGODB_DATABASE", DEFAULT_DATABASE)), currency)

    def running(self, *jobs: Job) -> AbstractAsyncContextManager[None]:
        """Be connected, and do the jobs, while the context is open."""
        return self._connection.running(*jobs)

    def health(self) -> Health:
        """Degraded while the database is away."""
        return self._connection.health()

    def minor(self, amount: str) -> int:
        """An amount of money as it was written, in minor units."""
        return to_minor(amount, self.currency)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        """The store for one call; what goes wrong in it is the tool's own error."""
        try:
            async with asyncio.timeout(DEADLINE):
                yield await self._connection.store()
        except ShopError as error:
            raise ToolError(str(error)) from error
        except TimeoutError as error:
            raise ToolError(
                "the shop's database is too slow: look at what was done, then try again"
            ) from error


def caller(ctx: Context[Any, Any]) -> str:
    """Where a call comes from: the gateway's agent, or the address where there is none."""
    agent = current_agent(ctx)
    if agent is not None:
        return f"agent {agent}"
    request = ctx.request_context.request
    client = request.client if request is not None else None
    return f"address {client.host}" if client else "stdio"


def seconds(name: str, default: float) -> float:
    """A setting that is a number of seconds; ends the script where it is none."""
    text = setting(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 86_400:
        fail("shop", f"{name} must be a number of seconds, and is {text!r}", 2)
    return value
