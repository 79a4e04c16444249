"""Who may call: the fleet's secret, and the agent that the gateway names under its protection."""

from __future__ import annotations

import hmac
import os
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any

from mcp.server.context import ServerRequestContext
from starlette.datastructures import Headers
from starlette.types import Scope

VARIABLE = "MCPCP_CREDENTIAL_FD"
HEADER = "x-mcpcp-credential"
AGENT_META = "mcpcp/agent"

_PROVEN = "mcpcp.credential"
_LONGEST = 4096


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


def take_credential(environ: MutableMapping[str, str]) -> Credential | None:
    """Read the secret from the descriptor that `environ` names, close it, drop the variable.

    None where nothing is named: the script was started by hand and is open on loopback.
    """
    number = environ.pop(VARIABLE, None)
    if number is None:
        return None
    try:
        secret = _read_and_close(int(number)).strip()
    except (OSError, ValueError) as e:
        raise CredentialError(f"{VARIABLE}={number} can't be read: {e}") from e
    if not secret:
        raise CredentialError(f"{VARIABLE}={number} holds no credential")
    return Credential(secret)


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
