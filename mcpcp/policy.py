"""Who may use what: pure decisions over immutable values.

Above: `tokens` makes an Agent from a signed token, `catalog` asks which tools it may see.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

Rules = tuple[tuple[str, tuple[str, ...]], ...]


@lru_cache(maxsize=4096)
def _matcher(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in pattern.split("*")), re.DOTALL)


def matches(pattern: str, name: str) -> bool:
    """Whether `name` fits `pattern`, in which `*` stands for any run of characters."""
    return pattern == "*" or _matcher(pattern).fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Allowlist:
    """Server patterns and the tool patterns each grants; grants add up, nothing is taken away.

    `rules` is sorted, so equal grants are equal values and hash alike: caches are keyed by it,
    with each call, so the hash is made once.
    """

    rules: Rules = ()
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash(self.rules))

    def __hash__(self) -> int:
        return self._hash

    @classmethod
    def of(cls, grants: Mapping[str, Iterable[str]]) -> Allowlist:
        """From {server pattern: [tool patterns]}, as the config and the token's claim write it."""
        return cls(tuple(sorted((s, tuple(sorted(set(t)))) for s, t in grants.items())))

    def to_claim(self) -> dict[str, list[str]]:
        """As {server pattern: [tool patterns]}."""
        return {server: list(tools) for server, tools in self.rules}

    def permits(self, server: str, tool: str) -> bool:
        """Whether some rule grants `tool` of `server`."""
        return any(
            matches(server_pattern, server) and any(matches(p, tool) for p in tools)
            for server_pattern, tools in self.rules
        )

    def permits_other(self, server: str, kind: str, name: str) -> bool:
        """Whether some rule grants a `prompt` or `resource`: `*` does, or `KIND:PATTERN`."""
        full = f"{kind}:{name}"
        return any(
            matches(server_pattern, server)
            and any(p == "*" or (p.startswith(f"{kind}:") and matches(p, full)) for p in patterns)
            for server_pattern, patterns in self.rules
        )

    def grants_all(self, server: str) -> bool:
        """Whether some rule grants everything of `server`, so that nothing of it is hidden."""
        return any("*" in tools and matches(pattern, server) for pattern, tools in self.rules)

    def reaches(self, server: str) -> bool:
        """Whether some rule grants anything at all of `server`."""
        return any(tools and matches(pattern, server) for pattern, tools in self.rules)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a token allows beside names; None is no limit.

    `arguments` is sorted pairs of a SERVER:TOOL pattern and the canonical text of the JSON Schema
    that a call's arguments must meet, so equal limits are equal values and hash alike.
    """

    calls_per_minute: int | None = None
    in_flight: int | None = None
    arguments: tuple[tuple[str, str], ...] = ()

    def schemas(self, server: str, tool: str) -> list[str]:
        """The texts of all schemas that the arguments of `tool` of `server` must meet."""
        found = []
        for pattern, schema in self.arguments:
            server_pattern, _, tool_pattern = pattern.partition(":")
            if matches(server_pattern, server) and matches(tool_pattern, tool):
                found.append(schema)
        return found


NONE = Limits()
"""No limits; the hot path tells it by identity, so whoever makes Limits uses this one."""


@dataclass(frozen=True, slots=True)
class Agent:
    """An authenticated identity and what it may use.

    `expires_at` is seconds since the epoch, infinite for the anonymous agent that a config allows.
    """

    name: str
    allow: Allowlist
    issuer: str
    token_id: str
    expires_at: float
    limits: Limits = NONE

    @property
    def identity(self) -> Identity:
        """What a session is bound to: a renewed token of the same grant continues it."""
        return (self.issuer, self.name, self.allow, self.limits)


Identity = tuple[str, str, Allowlist, Limits]
