"""What a caller asks of the sandbox."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from servers.sandboxing.sessions import SessionKey

Stream = Literal["stdout", "stderr"]

Listener = Callable[[Stream, str], Awaitable[None]]
"""Told of output while the code runs: whole lines where it can be, safe to show."""


@dataclass(frozen=True, slots=True)
class Call:
    """One program to run.

    timeout   seconds, None for the usual; more than `Limits.longest` is refused
    session   whose files /work holds and keeps; None for an empty /work that is thrown away
    packages  folders right below `Settings.packages`, shown read-only and put on `sys.path` in
              this order
    listener  told of output as it comes
    """

    code: str
    timeout: float | None = None
    session: SessionKey | None = None
    packages: tuple[Path, ...] = ()
    listener: Listener | None = field(default=None, compare=False)
