"""The connection to the Redis of STATE_URL, and how its absence is told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from mcpcp.errors import Unavailable

TIMEOUT: Final = 1.0
"""Seconds for a connection, and for each answer."""

PREFIX: Final = "mcpcp:"
"""What all our keys begin with; several fleets on one Redis use databases of their own."""

AWAY: Final = (RedisError, OSError, TimeoutError)
"""How a Redis fails that is away, starting, full or not one."""


class Redis:
    """A client of each kind for one URL; connections are made when they are needed, and again."""

    def __init__(self, url: str) -> None:
        self.place = _place(url)
        options: dict[str, Any] = {
            "socket_timeout": TIMEOUT,
            "socket_connect_timeout": TIMEOUT,
            "decode_responses": True,
            "health_check_interval": 0,
        }
        # Any: the annotations join the answers of every option; with ours they are plain text.
        self.sync: Any = redis.Redis.from_url(
            url, retry=redis.retry.Retry(NoBackoff(), 1), **options
        )
        self.waiting: Any = redis.asyncio.Redis.from_url(
            url, retry=redis.asyncio.retry.Retry(NoBackoff(), 1), **options
        )

    @contextlib.contextmanager
    def needed(self, what: str) -> Iterator[None]:
        """Raise Unavailable, which says `what` failed and what to do, where Redis is away."""
        try:
            yield
        except AWAY as error:
            raise Unavailable(f"{what}: {self.absence(error)}") from None

    def absence(self, error: BaseException) -> str:
        """Why there is no Redis, and what a person can do."""
        return (
            f"the state at {self.place} does not answer ({error or type(error).__name__});"
            " start that Redis, or set another STATE_URL"
        )

    async def close(self) -> None:
        """Close every connection."""
        self.sync.close()
        await self.waiting.aclose()


def keep_cancelled() -> None:
    """Raise CancelledError where this task was cancelled; to be called after each exchange.

    redis-py 8.1 loses a cancellation that comes while it connects.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _place(url: str) -> str:
    """The URL as it may be shown: without a password."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"
