"""What the fleet's processes inherit from it: an environment, and descriptors with secrets."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mcpcp.config.environment import child_environment
from mcpcp.credentials import lent
from mcpcp.fleet import GATEWAY
from mcpcp.logs import hide
from mcpcp.processes import FLEET_MARK, NAME_MARK
from mcpcp.supervisor.channel import FLEET_VARIABLE
from mcpcp.supervisor.specs import ProcessSpec

CREDENTIAL_VARIABLE: Final = "MCPCP_CREDENTIAL_FD"
NOT_INHERITED: Final = (CREDENTIAL_VARIABLE, FLEET_VARIABLE, "MCPCP_TOKEN")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a fleet lives: its runtime folder, who guards it, and the environment it was given."""

    runtime_dir: Path
    guard: int
    environ: Mapping[str, str]


class Inheritance:
    """One fleet's; `credential` is the secret from which each server's own is made."""

    def __init__(self, place: Place, scrape_token: str) -> None:
        self.credential = secrets.token_hex(32)
        self._scrape_token = scrape_token
        for secret in (self.credential, scrape_token):
            hide(secret)
        # The gateway expands the config's ${VARIABLES} itself, so it needs what we were given.
        self._gateways = _marked(place, place.environ)
        self.base = _marked(place, child_environment({}, place.environ))
        """The environment of what is no gateway, without its own part."""

    def environment(self, spec: ProcessSpec) -> dict[str, str]:
        """The whole environment of a process."""
        base = self._gateways if spec.name == GATEWAY else self.base
        return {**base, **spec.env, NAME_MARK: spec.name}

    def lend(self, spec: ProcessSpec) -> AbstractContextManager[Mapping[str, int]]:
        """The descriptor from which a server reads its secrets, under its variable's name."""
        scrape = self._scrape_token if spec.own else None
        return _filled_pipe(lent(self.credential, spec.server, spec.calls, scrape))


def _marked(place: Place, environ: Mapping[str, str]) -> dict[str, str]:
    kept = {n: v for n, v in environ.items() if n not in NOT_INHERITED}
    # What a server prints must reach its log at once, also where it prints to a pipe.
    return {"PYTHONUNBUFFERED": "1", **kept, FLEET_MARK: str(place.runtime_dir)}


@contextlib.contextmanager
def _filled_pipe(told: bytes) -> Iterator[Mapping[str, int]]:
    """A pipe that holds the secrets and its end already."""
    read_end, write_end = os.pipe()
    try:
        os.write(write_end, told)
        os.close(write_end)
        yield {CREDENTIAL_VARIABLE: read_end} if sys.platform != "win32" else {}
    finally:
        os.close(read_end)
