"""Who may call: this server's secret, and the agent that the gateway names under its protection.

A server that the fleet's config lets call others is told their secrets beside its own.
"""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from mcp.server.context import ServerRequestContext
from starlette.datastructures import Headers
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
    """The secret that a caller over HTTP must show."""

    secret: bytes = field(repr=False)

    def admits(self, scope: Scope) -> bool:
        """Whether the request shows the secret; if so, its `_meta` may be believed."""
        shown = Headers(scope=scope).get(HEADER, "").encode("latin-1")
        admitted = hmac.compare_digest(shown, self.secret)
        if admitted:
            scope[_PROVEN] = True
        return admitted


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
    """What the supervisor told a server: its own secret, and the servers that it may call."""

    credential: Credential
    callees: Mapping[str, Callee]


def take_credential(environ: MutableMapping[str, str]) -> Lent | None:
    """Read the secrets from the descriptor that `environ` names, close it, drop the variable.

    None where nothing is named: the script was started by hand and is open on loopback.
    """
    number = environ.pop(VARIABLE, None)
    if number is None:
        return None
    try:
        secret, *others = _read_and_close(int(number)).strip().split(b"\n")
        callees = dict(map(_callee, others))
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise CredentialError(f"{VARIABLE}={number} can't be read: {e}") from e
    if not secret:
        raise CredentialError(f"{VARIABLE}={number} holds no credential")
    return Lent(Credential(secret), callees)


def _callee(line: bytes) -> tuple[str, Callee]:
    found = json.loads(line)
    return str(found["name"]), Callee(str(found["url"]), str(found["secret"]))


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
