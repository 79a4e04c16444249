"""The gateway: authorize, route, forward, record.

Above: the frontends bring each message with the agent whose token it came with, and translate
errors into answers. Below: `registry` has the catalog and the connections, `audit` and `metrics`
keep the record. The way of a call is `call_tool`, from top to bottom.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from mcpcp import __version__
from mcpcp.audit import AuditLog, CallRecord, Outcome
from mcpcp.catalog import Entry, View
from mcpcp.config import Config
from mcpcp.errors import DeadlineExceeded, Interrupted, McpcpError, TokenError, Unavailable
from mcpcp.jsonrpc import (
    INVALID_PARAMS,
    LATEST_LEGACY,
    LEGACY_VERSIONS,
    META_CLIENT_CAPABILITIES,
    META_CLIENT_INFO,
    META_SERVER_INFO,
    META_VERSION,
    METHOD_NOT_FOUND,
    MODERN_VERSIONS,
    UNSUPPORTED_PROTOCOL_VERSION,
    Message,
    Notify,
    RpcError,
)
from mcpcp.metrics import Metrics
from mcpcp.policy import Agent
from mcpcp.registry import Registry
from mcpcp.tokens import TokenVerifier

META_AGENT: Final = "mcpcp/agent"
SERVER_INFO: Final = {"name": "mcpcp", "title": "mcpcp gateway", "version": __version__}
CAPABILITIES: Final = {"tools": {"listChanged": True}}
_ENVELOPE: Final = frozenset({META_VERSION, META_CLIENT_INFO, META_CLIENT_CAPABILITIES})


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a message, on which session, in which era."""

    agent: Agent
    session: str = ""
    modern: bool = False


class Gateway:
    """The core; one a fleet."""

    def __init__(
        self, registry: Registry, verifier: TokenVerifier, audit: AuditLog, metrics: Metrics
    ) -> None:
        self.registry = registry
        self.metrics = metrics
        self.draining = asyncio.Event()
        self._verifier = verifier
        self._audit = audit
        self._methods: dict[str, Callable[[Caller, Message, Notify], Awaitable[Any]]] = {
            "tools/call": self.call_tool,
            "tools/list": self.list_tools,
            "initialize": self.initialize,
            "server/discover": self.discover,
            "ping": self.ping,
        }

    @property
    def config(self) -> Config:
        """The config in force."""
        return self.registry.config

    def authenticate(self, token: str | None) -> Agent:
        """The agent that `token` names; without one the anonymous agent, where the config has one.

        Raises TokenError.
        """
        try:
            if token is None:
                return self._anonymous()
            return self._verifier.verify(token)
        except TokenError as error:
            self.metrics.deny(error.reason)
            raise

    def view(self, agent: Agent) -> View:
        """What `agent` may see of the catalog as it is now."""
        return self.registry.catalog.view(agent.allow)

    def render_metrics(self) -> bytes:
        """The text that Prometheus scrapes, with the servers as they are now."""
        self.metrics.show_servers(self.registry.connected())
        return self.metrics.render()

    async def handle(self, caller: Caller, message: Message, notify: Notify) -> Any:
        """The result of one request; notifications on the way to it go to `notify`.

        Raises RpcError and every other McpcpError: the frontends make answers of them.
        """
        method = self._methods.get(message["method"])
        if method is None:
            raise RpcError(METHOD_NOT_FOUND, f"Method not found: {message['method']}")
        params = message.get("params")
        if params is None:
            params = {}
        elif not isinstance(params, dict):
            raise RpcError(INVALID_PARAMS, "params must be an object")
        if not isinstance(params.get("_meta"), dict | None):
            raise RpcError(INVALID_PARAMS, "params._meta must be an object")
        return await method(caller, params, notify)

    # The way of a call.

    async def call_tool(self, caller: Caller, params: Message, notify: Notify) -> Any:
        """Authorize, route, forward, record."""
        began = time.perf_counter()
        entry = await self._authorize(caller, params)
        server, tool = entry.name.server, entry.name.tool
        outcome: Outcome = "cancelled"
        reason = ""
        self._audit.check()
        self.metrics.in_flight += 1
        try:
            backend = self.registry.backend(server)
            result = await backend.request(
                "tools/call",
                self._forwarded(caller, entry, params, trusted=backend.server.command is not None),
                notify=notify,
                repeatable=entry.repeatable,
            )
            outcome = "error" if isinstance(result, dict) and result.get("isError") else "ok"
            return _in_era(result, caller.modern)
        except McpcpError as error:
            outcome, reason = _outcome(error), str(error)
            raise
        finally:
            seconds = time.perf_counter() - began
            self.metrics.in_flight -= 1
            self.metrics.observe(server, tool, outcome, seconds)
            self._record(caller, server, tool, outcome, reason, seconds)

    async def _authorize(self, caller: Caller, params: Message) -> Entry:
        """The entry that the agent calls; to it, denied and unknown look the same."""
        name = params.get("name")
        if not isinstance(name, str):
            raise RpcError(INVALID_PARAMS, "tools/call needs the tool's name")
        entry = self.view(caller.agent).entries.get(name)
        if entry is None:
            await self.registry.first_offers(caller.agent.allow)
            entry = self.view(caller.agent).entries.get(name)
        if entry is None:
            self._refuse(caller, name)
            raise RpcError(INVALID_PARAMS, f"Unknown tool: {name}")
        return entry

    def _refuse(self, caller: Caller, name: str) -> None:
        held = self.registry.catalog.entries.get(name)
        outcome: Outcome = "unknown" if held is None else "denied"
        self.metrics.deny(outcome)
        server, tool = (held.name.server, held.name.tool) if held else ("", name[:128])
        self._record(caller, server, tool, outcome, "not in the token's allowlist", 0.0)

    def _forwarded(
        self, caller: Caller, entry: Entry, params: Message, *, trusted: bool
    ) -> Message:
        """The params as the server gets them: its own name for the tool, and who calls."""
        meta = {k: v for k, v in (params.get("_meta") or {}).items() if k not in _ENVELOPE}
        meta.pop(META_AGENT, None)
        if trusted:  # a server that we started; nobody else learns our agents' names
            meta[META_AGENT] = caller.agent.name
        return {**params, "name": entry.name.tool, "_meta": meta}

    def _record(
        self,
        caller: Caller,
        server: str,
        tool: str,
        outcome: Outcome,
        reason: str,
        seconds: float,
    ) -> None:
        self._audit.record(
            CallRecord(
                agent=caller.agent.name,
                token_id=caller.agent.token_id,
                session=caller.session,
                server=server,
                tool=tool,
                method="tools/call",
                outcome=outcome,
                reason=reason,
                duration_ms=round(seconds * 1000, 3),
            )
        )

    # The other methods.

    async def list_tools(self, caller: Caller, params: Message, notify: Notify) -> Any:
        """Every tool of the agent's view, on one page."""
        if params.get("cursor") is not None:
            raise RpcError(INVALID_PARAMS, "Invalid cursor: this gateway lists tools on one page")
        await self.registry.first_offers(caller.agent.allow)
        result = {"tools": self.view(caller.agent).tools_json}
        return _cacheable(result) if caller.modern else result

    async def initialize(self, caller: Caller, params: Message, notify: Notify) -> Any:
        """The legacy handshake."""
        wanted = params.get("protocolVersion")
        result = {
            "protocolVersion": wanted if wanted in LEGACY_VERSIONS else LATEST_LEGACY,
            "capabilities": CAPABILITIES,
            "serverInfo": SERVER_INFO,
        }
        return self._with_instructions(result, caller)

    async def discover(self, caller: Caller, params: Message, notify: Notify) -> Any:
        """The modern handshake."""
        result = {"supportedVersions": list(MODERN_VERSIONS), "capabilities": CAPABILITIES}
        return self._with_instructions(_cacheable(result), caller)

    async def ping(self, caller: Caller, params: Message, notify: Notify) -> Any:
        """Still here."""
        return {"resultType": "complete"} if caller.modern else {}

    def _with_instructions(self, result: Message, caller: Caller) -> Message:
        instructions = self.view(caller.agent).instructions
        return {**result, "instructions": instructions} if instructions else result

    def _anonymous(self) -> Agent:
        name = self.config.gateway.anonymous
        if name is None:
            raise TokenError("missing", "a token is needed: Authorization: Bearer TOKEN")
        allow = self.config.agents[name]
        return Agent(name, allow, "anonymous", "anonymous", float("inf"))


def check_modern(params: Any) -> None:
    """Whether a modern request carries the envelope that its era demands; else RpcError."""
    meta = params.get("_meta") if isinstance(params, dict) else None
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


def _cacheable(result: Message) -> Message:
    """What the modern era demands of lists; a list filtered by token is never shared."""
    return {
        **result,
        "resultType": "complete",
        "ttlMs": 0,
        "cacheScope": "private",
        "_meta": {META_SERVER_INFO: SERVER_INFO},
    }


def _in_era(result: Any, modern: bool) -> Any:
    """A server's result as the client's era writes it."""
    if not isinstance(result, dict):
        return result
    if modern and "resultType" not in result:
        return {**result, "resultType": "complete"}
    if not modern and result.get("resultType") == "complete":
        return {k: v for k, v in result.items() if k != "resultType"}
    return result


def _outcome(error: McpcpError) -> Outcome:
    if isinstance(error, RpcError):
        return "error"
    if isinstance(error, DeadlineExceeded):
        return "timeout"
    if isinstance(error, Interrupted):
        return "interrupted"
    return "unavailable" if isinstance(error, Unavailable) else "error"
