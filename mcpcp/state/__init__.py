"""What must outlive a call and be shared by processes and replicas; nothing else holds such state.

Above: the service opens it for a gateway, the command line for a moment. Below: `files` for one
machine; `redis` where STATE_URL names one, so that any number of gateways act as one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from mcpcp.state.files import CHECK_EVERY, FileRevocations

if TYPE_CHECKING:
    from mcpcp.config import Config
    from mcpcp.state.pins import RedisPins
    from mcpcp.state.shared import SharedState

__all__ = [
    "CHECK_EVERY",
    "FileRevocations",
    "Revocations",
    "open_pins",
    "open_revocations",
    "open_shared",
]


class Revocations(Protocol):
    """Token ids that are refused before their time."""

    def is_revoked(self, token_id: str) -> bool:
        """Whether `token_id` is refused; called for every message, so it must be cheap.

        Raises TokenError where that can't be known any more.
        """

    def revoke(self, token_id: str, until: float) -> None:
        """Refuse `token_id` from now on, until `until` (epoch seconds) when it ends by itself.

        Raises Unavailable where it can't be recorded.
        """


def open_revocations(config: Config) -> Revocations:
    """The revocations of this config's fleet, as they are now; raises Unavailable."""
    if config.state_url is None:
        return FileRevocations(config.revocations_dir)
    from mcpcp.state.connection import Redis
    from mcpcp.state.revocations import RedisRevocations

    return RedisRevocations(Redis(config.state_url))


def open_pins(config: Config) -> RedisPins | None:
    """The pins that gateways share, None where they are in a file; raises Unavailable."""
    if config.state_url is None:
        return None
    from mcpcp.state.connection import Redis
    from mcpcp.state.pins import RedisPins

    return RedisPins(Redis(config.state_url))


def open_shared(config: Config) -> SharedState | None:
    """What gateways share over Redis, None where STATE_URL is not set; raises Unavailable."""
    if config.state_url is None:
        return None
    from mcpcp.state.shared import SharedState

    return SharedState(config.state_url, config.gateway.port)
