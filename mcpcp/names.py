"""The only place where a server's name and a tool's, or a replica's number, become one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

LONGEST = 64
"""Characters that every known client accepts in a tool's name."""


@dataclass(frozen=True, slots=True, order=True)
class ToolName:
    """A tool as its server calls it; exposed names are looked up in the catalog, never split."""

    server: str
    tool: str

    def __str__(self) -> str:
        return f"{self.server}:{self.tool}"


def replica(server: str, number: int) -> str:
    """What the `number`th process of a server is called, from 1; the first has the server's name.

    So nothing changes for it when others come and go. No server's name has a dot.
    """
    return server if number == 1 else f"{server}.{number}"


def server_of(process: str) -> str:
    """The server whose process is called so; the reverse of `replica`."""
    return process.partition(".")[0]


def expose(prefix: str, tool: str) -> str:
    """The name a client sees: `prefix_tool`, `tool` alone without a prefix; at most 64 characters.

    A longer one keeps its beginning and ends in a hash of the whole, so it is the same every time.
    """
    name = f"{prefix}_{tool}" if prefix else tool
    if len(name) <= LONGEST:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: LONGEST - 9]}_{digest}"
