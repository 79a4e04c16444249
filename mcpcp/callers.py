"""Who sends a message, and what the modern era has him say about himself with each. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mcpcp.jsonrpc import INVALID_PARAMS, UNSUPPORTED_PROTOCOL_VERSION, Message, RpcError
from mcpcp.policy import Agent
from mcpcp.profiles import BASE, Profile, profile_of
from mcpcp.protocol import META_CLIENT_CAPABILITIES, META_VERSION, MODERN_VERSIONS
from mcpcp.sessions import ClientSession


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a message: the agent, in a session of the legacy era or none."""

    agent: Agent
    session: ClientSession | None = None
    modern: bool = False
    declared: Profile = BASE
    """In the modern era, where each request says what its client can."""

    @property
    def profile(self) -> Profile:
        """What the client can."""
        return self.declared if self.session is None else self.session.profile


def declared_profile(params: Message) -> Profile:
    """What the client of a modern request says it can."""
    return profile_of(params["_meta"][META_CLIENT_CAPABILITIES])


def check_modern(params: Any) -> Message:
    """`params` if they carry the envelope that the modern era demands; else RpcError."""
    checked: Message = params if isinstance(params, dict) else {}
    meta = checked.get("_meta")
    if not isinstance(meta, dict):
        raise RpcError(INVALID_PARAMS, f"params._meta must hold {META_VERSION!r}")
    for key in (META_VERSION, META_CLIENT_CAPABILITIES):
        if key not in meta:
            raise RpcError(INVALID_PARAMS, f"params._meta lacks {key!r}")
    version = meta[META_VERSION]
    if not isinstance(version, str):
        raise RpcError(INVALID_PARAMS, f"{META_VERSION!r} must be a string")
    if version not in MODERN_VERSIONS:
        data = {"supported": list(MODERN_VERSIONS), "requested": version}
        raise RpcError(UNSUPPORTED_PROTOCOL_VERSION, "Unsupported protocol version", data)
    return checked
