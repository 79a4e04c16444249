"""Where the sandbox server is, and how we show that we may call it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from servers.serving import Callee

_NAME = "sandbox"
_ALONE = "http://127.0.0.1:9011/mcp"


class BadSetting(ValueError):
    """A variable is not what it can be; the message says which, and what it can be."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The sandbox server's address, and the headers that it wants to see."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(slots=True)
class Route:
    """`url` as the operator says, None for the fleet's own; the other two are seconds."""

    url: str | None
    connect_in: float
    answer_in: float
    _callees: Mapping[str, Callee] = field(default_factory=dict)

    def learn(self, callees: Mapping[str, Callee]) -> None:
        """Take note of the servers that the fleet lets us call."""
        self._callees = callees

    def sandbox(self) -> Sandbox:
        """A credential goes only to the very server that it is for."""
        callee = self._callees.get(_NAME)
        if callee is None:
            return Sandbox(self.url or _ALONE)
        if self.url is None:
            return Sandbox(f"{callee.url}/mcp", callee.headers())
        same = _origin(self.url) == _origin(callee.url)
        return Sandbox(self.url, callee.headers() if same else {})


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname
    return parts.scheme, host, parts.port


def route(setting: Callable[[str, str], str]) -> Route:
    """What the environment says; raises BadSetting."""
    url = setting("SANDBOX_URL", "")
    if url and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname):
        raise BadSetting(f"SANDBOX_URL is an address such as {_ALONE}, not {url!r}")
    try:
        connect_in = float(setting("EXECUTOR_CONNECT_TIMEOUT", "10"))
        answer_in = float(setting("EXECUTOR_TIMEOUT", "180"))
    except ValueError as e:
        raise BadSetting(f"EXECUTOR_CONNECT_TIMEOUT and EXECUTOR_TIMEOUT are seconds: {e}") from e
    return Route(url or None, connect_in, answer_in)
