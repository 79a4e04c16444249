"""Host and Origin are checked, so that no web page can reach a service by DNS rebinding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol
from urllib.parse import urlsplit

from mcpcp.frontends.requests import Request

_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


class Allowed(Protocol):
    """What a section of the config allows."""

    @property
    def allowed_hosts(self) -> tuple[str, ...]: ...

    @property
    def allowed_origins(self) -> tuple[str, ...]: ...


class HostGuard:
    """Names and origins that may be used: loopback, where we listen, and what the config adds.

    `settings` gives the address where we listen, and the config's `section` as it is now.
    """

    def __init__(self, section: str, settings: Callable[[], tuple[str, Allowed]]) -> None:
        self._section = section
        self._settings = settings
        self._good: tuple[bytes | None, bytes | None] = (None, None)

    def refuse(self, request: Request) -> str | None:
        """Why `request` is refused, None where it is not."""
        seen = (request.raw(b"host"), request.raw(b"origin"))
        if seen == self._good:
            return None
        host, origin = request.header(b"host"), request.header(b"origin")
        if host is None or not self._is_ours(_name(host)):
            return f"Host {host!r} is not served here: add it to {self._section}.allowed_hosts"
        if origin is not None and not self._is_allowed(origin):
            return f"Origin {origin!r} is not allowed: add it to {self._section}.allowed_origins"
        self._good = seen
        return None

    def _is_ours(self, name: str) -> bool:
        host, allowed = self._settings()
        return name in _LOOPBACK or name == host or name in allowed.allowed_hosts

    def _is_allowed(self, origin: str) -> bool:
        if origin in self._settings()[1].allowed_origins:
            return True
        return urlsplit(origin).scheme in ("http", "https") and (
            urlsplit(origin).hostname in _LOOPBACK
        )


def _name(host: str) -> str:
    """A Host header's name without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
