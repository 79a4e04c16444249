"""The gateway: authorize, route, forward, record.

Above: the frontends bring each message with the agent whose token it came with, and translate
errors into answers. Below: `registry` has the catalog and the connections, `listing` says what is
on offer, `eras` translates, `audit` and `metrics` keep the record. The way of a call is
`call_tool`, then `forward`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final

from mcpcp import listing
from mcpcp.audit import AuditLog, CallRecord, Outcome
from mcpcp.backends.backend import Backend
from mcpcp.backends.line import Line
from mcpcp.catalog import Entry, Kind, View
from mcpcp.config import Config
from mcpcp.eras import ParkingLot, WithoutLogs, modern_error, with_answers
from mcpcp.errors import (
    DeadlineExceeded,
    Interrupted,
    McpcpError,
    Refused,
    TokenError,
    Unavailable,
)
from mcpcp.jsonrpc import (
    INVALID_PARAMS,
    META_CLIENT_CAPABILITIES,
    META_LOG_LEVEL,
    META_VERSION,
    MODERN_VERSIONS,
    RESOURCE_NOT_FOUND,
    UNSUPPORTED_PROTOCOL_VERSION,
    Back,
    Message,
    Notify,
    RpcError,
)
from mcpcp.limits import Limiter
from mcpcp.metrics import Metrics
from mcpcp.names import ToolName
from mcpcp.policy import NONE, Agent
from mcpcp.registry import Registry
from mcpcp.sessions import ClientSession
from mcpcp.standins import StandIns
from mcpcp.tokens import TokenVerifier

META_AGENT: Final = "mcpcp/agent"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a message: the agent, in a session of the legacy era or none."""

    agent: Agent
    session: ClientSession | None = None
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
        self._limiter = Limiter()
        self._parked = ParkingLot(registry.start)
        self._stand_ins = StandIns(registry)

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

    def open_session(self, push: Notify) -> ClientSession:
        """A legacy session, closed by its opener; `push` takes what belongs to no request."""
        return ClientSession(self.registry, push)

    # The way of a call.

    async def forward(
        self, caller: Caller, entry: Entry, method: str, params: Message, back: Back
    ) -> Any:
        """Route, forward, record; `entry` is what the agent was found to be allowed."""
        began = time.perf_counter()
        server = entry.name.server
        outcome: Outcome = "cancelled"
        reason = ""
        self._audit.check()
        self.metrics.in_flight += 1
        try:
            backend = self.registry.backend(server)
            addressed = _addressed(caller, params, trusted=backend.server.command is not None)
            if backend.server.concurrency is None and caller.agent.limits is NONE:
                result = await self._send(caller, backend, entry, method, addressed, back)
            else:
                result = await self._send_in_turn(caller, backend, entry, method, addressed, back)
            outcome = "error" if isinstance(result, dict) and result.get("isError") else "ok"
            return self._as_known(server, listing.in_era(result, method, caller.modern))
        except McpcpError as error:
            outcome, reason = _outcome(error), str(error)
            raise
        finally:
            seconds = time.perf_counter() - began
            self.metrics.in_flight -= 1
            self.metrics.observe(server, _label(entry), outcome, seconds)
            self._record(caller, entry.name, method, outcome, reason, seconds)

    async def _send_in_turn(
        self,
        caller: Caller,
        backend: Backend,
        entry: Entry,
        method: str,
        params: Message,
        back: Back,
    ) -> Any:
        """Send what the token's limits admit, when it is its turn at the server."""
        server, arguments = backend.server, params.get("arguments")
        with self._limiter.admit(caller.agent, server.name, entry.name.tool, arguments):
            async with backend.turns.take(server.concurrency, server.timeout):
                return await self._send(caller, backend, entry, method, params, back)

    def _send(
        self,
        caller: Caller,
        backend: Backend,
        entry: Entry,
        method: str,
        params: Message,
        back: Back,
    ) -> Coroutine[Any, Any, Any]:
        """Send on the connection that is right for this caller; translate where eras differ."""
        if caller.modern and not backend.modern:
            return self._send_older(caller, backend, entry, method, params, back)
        line = self._line(caller, backend)
        if not caller.modern and (line.connection is None or line.connection.modern):
            return self._send_newer(caller, line, entry, method, params, back)
        return line.request(method, params, back=back, repeatable=entry.repeatable)

    async def _send_newer(
        self,
        caller: Caller,
        line: Line,
        entry: Entry,
        method: str,
        params: Message,
        back: Back,
    ) -> Any:
        """A legacy client before a server that may turn out to be modern."""
        connection = line.connection or await line.wait()
        if not connection.modern:
            return await line.request(method, params, back=back, repeatable=entry.repeatable)
        return await with_answers(
            lambda p: line.request(method, p, back=back, repeatable=entry.repeatable),
            self._with_log_level(caller, params),
            back,
        )

    def _line(self, caller: Caller, backend: Backend) -> Line:
        """A legacy client's own session with the server, where it can have one; else the shared."""
        own = caller.session is not None and backend.has_sessions
        return caller.session.link(backend).line if own and caller.session else backend.line

    async def _send_older(
        self,
        caller: Caller,
        backend: Backend,
        entry: Entry,
        method: str,
        params: Message,
        back: Back,
    ) -> Any:
        """A modern client before a legacy server."""
        if META_LOG_LEVEL not in params["_meta"]:
            back = WithoutLogs(back)
        try:
            if _can_be_asked(params):
                return await self._send_parked(caller, backend, entry, method, params, back)
            repeatable = entry.repeatable
            return await backend.line.request(method, params, back=back, repeatable=repeatable)
        except RpcError as error:
            raise modern_error(error) from None

    async def _send_parked(
        self,
        caller: Caller,
        backend: Backend,
        entry: Entry,
        method: str,
        params: Message,
        back: Back,
    ) -> Any:
        """A modern client before a legacy server that may ask it something in the middle."""
        capabilities = params["_meta"].get(META_CLIENT_CAPABILITIES) or {}
        stand_in = self._stand_ins.get(caller.agent.identity, capabilities)
        line = stand_in.link(backend).line if backend.has_sessions else backend.line
        plain = {k: v for k, v in params.items() if k not in ("inputResponses", "requestState")}

        async def begin(way: Back) -> Any:
            return await line.request(method, plain, back=way, repeatable=entry.repeatable)

        owner = (caller.agent.identity, entry.name, method)
        return await self._parked.call(owner, params, back, begin)

    async def authorize(self, caller: Caller, kind: Kind, name: Any) -> Entry:
        """The entry that the agent may use; to it, denied and unknown look the same."""
        if not isinstance(name, str):
            raise RpcError(INVALID_PARAMS, f"the {kind}'s name is missing")
        entry = self._find(caller, kind, name)
        if entry is None:
            await self.registry.first_offers(caller.agent.allow)
            entry = self._find(caller, kind, name)
        if entry is None:
            self._refuse(caller, kind, name)
            code = INVALID_PARAMS
            if kind == "resource" and not caller.modern:
                code = RESOURCE_NOT_FOUND
            data = {"uri": name} if kind == "resource" else None
            raise RpcError(code, f"Unknown {kind}: {name}", data)
        return entry

    def _find(self, caller: Caller, kind: Kind, name: str) -> Entry | None:
        view = self.view(caller.agent)
        if kind != "resource":
            return view.find(kind, name)
        return view.find_uri(name) or self._only_source(caller, view, name)

    def _only_source(self, caller: Caller, view: View, uri: str) -> Entry | None:
        """A resource that is on no list can only be of a server with resources, if there is one."""
        catalog = self.registry.catalog
        sources = [
            server
            for server in view.servers
            if "resources" in catalog.capabilities[server]
            and caller.agent.allow.permits_other(server, "resource", uri)
        ]
        if len(sources) != 1:
            return None
        return Entry("resource", ToolName(sources[0], uri), uri, {"uri": uri})

    def _refuse(self, caller: Caller, kind: Kind, name: str) -> None:
        held = self.registry.catalog.entries[kind].get(name)
        outcome: Outcome = "unknown" if held is None else "denied"
        self.metrics.deny(outcome)
        what = held.name if held else ToolName("", name[:128])
        self._record(caller, what, _METHOD_OF[kind], outcome, "not in the token's allowlist", 0.0)

    def _record(
        self,
        caller: Caller,
        what: ToolName,
        method: str,
        outcome: Outcome,
        reason: str,
        seconds: float,
    ) -> None:
        self._audit.record(
            CallRecord(
                agent=caller.agent.name,
                token_id=caller.agent.token_id,
                session=caller.session.id if caller.session else "",
                server=what.server,
                tool=what.tool,
                method=method,
                outcome=outcome,
                reason=reason,
                duration_ms=round(seconds * 1000, 3),
            )
        )

    def _as_known(self, server: str, result: Any) -> Any:
        """The result with the server's URIs as clients know them."""
        rewriter = self.registry.catalog.rewriters.get(server)
        return result if rewriter is None else rewriter.result(result)

    def _with_log_level(self, caller: Caller, params: Message) -> Message:
        """A modern server is told the log level with each request."""
        level = caller.session.log_level if caller.session else None
        if level is None:
            return params
        return {**params, "_meta": {META_LOG_LEVEL: level, **(params.get("_meta") or {})}}

    def _anonymous(self) -> Agent:
        name = self.config.gateway.anonymous
        if name is None:
            raise TokenError("missing", "a token is needed: Authorization: Bearer TOKEN")
        allow = self.config.agents[name]
        limits = self.config.agent_limits.get(name, NONE)
        return Agent(name, allow, "anonymous", "anonymous", float("inf"), limits)


_METHOD_OF: Final[dict[Kind, str]] = {
    "tool": "tools/call",
    "prompt": "prompts/get",
    "resource": "resources/read",
    "template": "completion/complete",
}


def _addressed(caller: Caller, params: Message, *, trusted: bool) -> Message:
    """The params as the server gets them: who calls is ours to say, never the client's.

    `trusted` is a server that we started; nobody else learns our agents' names.
    """
    meta = {k: v for k, v in (params.get("_meta") or {}).items() if k != META_AGENT}
    if trusted:
        meta[META_AGENT] = caller.agent.name
    return {**params, "_meta": meta}


def _can_be_asked(params: Message) -> bool:
    """Whether a modern client has said that it answers questions in the middle of a call."""
    capabilities = (params.get("_meta") or {}).get(META_CLIENT_CAPABILITIES) or {}
    return not {"sampling", "elicitation", "roots"}.isdisjoint(capabilities)


def _label(entry: Entry) -> str:
    """A bounded label for metrics: URIs are not."""
    return entry.name.tool if entry.kind in ("tool", "prompt") else entry.kind


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


def _outcome(error: McpcpError) -> Outcome:
    if isinstance(error, Refused):
        return "refused"
    if isinstance(error, RpcError):
        return "error"
    if isinstance(error, DeadlineExceeded):
        return "timeout"
    if isinstance(error, Interrupted):
        return "interrupted"
    return "unavailable" if isinstance(error, Unavailable) else "error"
