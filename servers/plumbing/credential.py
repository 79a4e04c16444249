"""Who may call: this server's secret, and the agent that the gateway names under its protection.

Beside it there may be a second secret, which lets Prometheus read the metrics and nothing else, and
the secrets of servers that the fleet's config lets this one call.
"""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from mcp.server.context import ServerRequestContext
from starlette.types import Scope

VARIABLE = "MCPCP_CREDENTIAL_FD"
HEADER = "x-mcpcp-credential"
AGENT_META = "mcpcp/agent"

_PROVEN = "mcpcp.credential"
_LONGEST = 65536


class CredentialError(Exception):
    """The credential was promised and can't be read: the script must not run open instead."""


@dataclass(frozen=True, slots=True)
class Credential:
    """The secret that a caller over HTTP must show, and the one that a reader of metrics must."""

    secret: bytes = field(repr=False)
    scrape: bytes = field(repr=False, default=b"")

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be in any log."""
        return tuple(s.decode("latin-1") for s in (self.secret, self.scrape) if s)

    def admits(self, scope: Scope) -> bool:
        """Whether the request shows the secret; if so, its `_meta` may be believed."""
        admitted = hmac.compare_digest(header(scope, HEADER.encode()), self.secret)
        if admitted:
            scope[_PROVEN] = True
        return admitted

    def admits_scrape(self, scope: Scope) -> bool:
        """Whether the request shows the secret of those who read metrics."""
        shown = header(scope, b"authorization")
        expected = b"Bearer " + self.scrape
        return bool(self.scrape) and hmac.compare_digest(shown, expected)


@dataclass(frozen=True, slots=True)
class Callee:
    """A server of the fleet that this one may call, for an agent that it names."""

    url: str
    secret: str = field(repr=False)

    def headers(self) -> dict[str, str]:
        """What proves to it who calls."""
        return {HEADER: self.secret}


@dataclass(frozen=True, slots=True)
class Lent:
    """What the supervisor told a server: its own secrets, and the servers that it may call."""

    credential: Credential
    callees: Mapping[str, Callee]

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be in any log."""
        return (*self.credential.secrets, *(callee.secret for callee in self.callees.values()))


def take_credential(environ: MutableMapping[str, str]) -> Lent | None:
    """Read the secrets from the descriptor that `environ` names, close it, drop the variable.

    None where nothing is named: the script was started by hand and is open on loopback.
    """
    number = environ.pop(VARIABLE, None)
    if number is None:
        return None
    try:
        secret, _, more = _read_and_close(int(number)).strip().partition(b"\n")
        told = json.loads(more or b"{}")
        callees = {name: Callee(**callee) for name, callee in told.get("calls", {}).items()}
        scrape = str(told.get("scrape", "")).encode()
    except (OSError, ValueError, TypeError, AttributeError) as e:
        raise CredentialError(f"{VARIABLE}={number} can't be read: {e}") from e
    if not secret:
        raise CredentialError(f"{VARIABLE}={number} holds no credential")
    return Lent(Credential(secret, scrape), callees)


def header(scope: Scope, name: bytes) -> bytes:
    """A request's first header of that name, which is in lower case; empty where there is none."""
    return next((value for key, value in scope["headers"] if key == name), b"")


def _read_and_close(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as stream:
        return stream.read(_LONGEST)


def calling_agent(request: ServerRequestContext[Any, Any]) -> str | None:
    """The agent's name, believed only from a caller that showed the credential, or over stdio."""
    http = request.request
    if http is not None and not http.scope.get(_PROVEN):
        return None
    name = (request.meta or {}).get(AGENT_META)
    return name if isinstance(name, str) else None
