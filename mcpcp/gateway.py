"""The gateway: authorize, route, forward, record.

Above: the frontends bring each message with the agent whose token it came with, and translate
errors into answers. Below: `registry` has the catalog and the connections, `routes` sends on the
right one of these, `audit` and `metrics` keep the record. The way of a call is `authorize`, then
`forward`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Final

from mcpcp import listing, requestid
from mcpcp.audit import AuditLog, CallRecord, Outcome
from mcpcp.backends.backend import Backend
from mcpcp.callers import Caller
from mcpcp.catalog import Entry, Kind, View, granted
from mcpcp.config import Config
from mcpcp.eras import ParkingLot
from mcpcp.errors import (
    DeadlineExceeded,
    Interrupted,
    Limited,
    McpcpError,
    Refused,
    TokenError,
    Unavailable,
)
from mcpcp.jsonrpc import (
    INVALID_PARAMS,
    RESOURCE_NOT_FOUND,
    Message,
    Notify,
    RpcError,
)
from mcpcp.limits import Limiter
from mcpcp.metrics import Metrics
from mcpcp.names import ToolName
from mcpcp.peer import Back
from mcpcp.policy import NONE, Agent
from mcpcp.profiles import BASE, Profile
from mcpcp.registry import Registry
from mcpcp.routes import Call, Routes
from mcpcp.sessions import ClientSession
from mcpcp.standins import StandIns
from mcpcp.tokens import TokenVerifier
from mcpcp.tracing import UNTRACED, Tracing
from mcpcp.verbatim import failed

if TYPE_CHECKING:
    from mcpcp.state.shared import SharedState

_FREE: Final[AbstractAsyncContextManager[None]] = contextlib.nullcontext()
META_AGENT: Final = "mcpcp/agent"


class Gateway:
    """The core; one a fleet."""

    def __init__(
        self,
        registry: Registry,
        verifier: TokenVerifier,
        audit: AuditLog,
        metrics: Metrics,
        tracing: Tracing = UNTRACED,
        shared: SharedState | None = None,
    ) -> None:
        self.registry = registry
        self._tracing = tracing
        self.metrics = metrics
        self.shared = shared
        self.draining = asyncio.Event()
        self._verifier = verifier
        self._audit = audit
        self._limiter = Limiter()
        parked = ParkingLot(registry.start, peers=shared.peers if shared else None)
        self._routes = Routes(parked, StandIns(registry))

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

    def view(self, agent: Agent, profile: Profile = BASE) -> View:
        """What `agent` may see of the catalog as it is now, with a client of that profile."""
        return self.registry.catalog.view(agent.allow, profile)

    def render_metrics(self) -> bytes:
        """The text that Prometheus scrapes, with the servers as they are now."""
        return self.metrics.render(self.registry.figures(), audit_failing=self._audit.failing)

    def open_session(self, push: Notify) -> ClientSession:
        """A legacy session, closed by its opener; `push` takes what belongs to no request."""
        return ClientSession(self.registry, push, self.shared.peers if self.shared else None)

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
        operation = self.metrics.begin(server, method, _label(entry))
        trace = self._tracing.begin(server, method, entry.name.tool, params)
        try:
            backend = self.registry.backend(server)
            addressed = _addressed(caller, params, trusted=backend.server.command is not None)
            trace.carry(addressed)
            call = Call(caller, backend, entry, method, addressed, back)
            if backend.server.concurrency is None and caller.agent.limits is NONE:
                result = await self._routes.send(call)
            else:
                result = await self._send_in_turn(call)
            outcome = "error" if failed(result) else "ok"
            return self._as_known(server, listing.in_era(result, method, caller.modern))
        except McpcpError as error:
            outcome, reason = _outcome(error), str(error)
            if isinstance(error, Limited):
                self.metrics.deny(error.rule)
            raise
        finally:
            seconds = time.perf_counter() - began
            self.metrics.end(operation, outcome, seconds)
            trace.end(outcome)
            self._record(caller, entry.name, method, outcome, reason, seconds)

    async def _send_in_turn(self, call: Call) -> Any:
        """Send what the token's limits admit, when it is its turn at the server."""
        agent, server, tool = call.caller.agent, call.backend.server, call.entry.name.tool
        with self._limiter.admit(agent, server.name, tool, call.params.get("arguments")):
            turn = call.backend.turns.take(server.concurrency, server.timeout)
            async with self._shared_limits(agent), turn:
                return await self._routes.send(call)

    def _shared_limits(self, agent: Agent) -> AbstractAsyncContextManager[None]:
        """The limits over all gateways, where there are more of both."""
        if self.shared is None or agent.limits is NONE:
            return _FREE
        return self.shared.rates.admit(agent)

    async def authorize(self, caller: Caller, kind: Kind, name: Any) -> Entry:
        """The entry that the agent may use; to it, denied and unknown look the same."""
        if not isinstance(name, str):
            raise RpcError(INVALID_PARAMS, f"the {kind}'s name is missing")
        entry = self._find(caller, kind, name)
        if entry is None:
            await self.prepare(caller, templates=kind in ("resource", "template"))
            entry = self._find(caller, kind, name)
        if entry is None:
            self._refuse(caller, kind, name)
            code = INVALID_PARAMS
            if kind == "resource" and not caller.modern:
                code = RESOURCE_NOT_FOUND
            data = {"uri": name} if kind == "resource" else None
            raise RpcError(code, f"Unknown {kind}: {name}", data)
        return entry

    async def prepare(self, caller: Caller, *, templates: bool = False) -> None:
        """Wait, once and bounded, for what servers have not yet said that the caller may see."""
        await self.registry.first_offers(caller.agent.allow)
        servers = self.view(caller.agent).servers
        if templates:
            await self.registry.templates(servers)
        if caller.profile == BASE:
            return
        backends = [b for b in self.registry.backends(servers) if b.varies]
        for backend in backends:
            self._ask_for_list(caller, backend)
        await self.registry.variants(caller.profile, backends)

    def _ask_for_list(self, caller: Caller, backend: Backend) -> None:
        """Have a server list for the caller's profile, where it has not yet."""
        if caller.profile in backend.variants.offers:
            return
        if backend.modern:
            backend.want_list(caller.profile)
            return
        session = caller.session or self._routes.stand_in(caller)
        session.link(backend).want_list()

    def _find(self, caller: Caller, kind: Kind, name: str) -> Entry | None:
        view = self.view(caller.agent, caller.profile)
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
        """Count and record what the agent asked for in vain, and why."""
        held = self.registry.catalog.entries[kind].get(name)
        what = held.name if held else ToolName("", name[:128])
        outcome: Outcome = "unknown"
        denied, reason = "unknown", f"nothing shown to this client is a {kind} of that name"
        withheld = self.registry.withheld.get(name) if kind == "tool" else None
        if withheld is not None:
            what, outcome, denied = withheld, "denied", "withheld"
            reason = "its definition changed and awaits approval: mcpcp tools diff"
        elif held is not None and not granted(caller.agent.allow, held):
            outcome = denied = "denied"
            reason = "not in the token's allowlist"
        self.metrics.deny(denied)
        self._record(caller, what, _METHOD_OF[kind], outcome, reason, 0.0)

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
                request_id=requestid.current(),
            )
        )

    def _as_known(self, server: str, result: Any) -> Any:
        """The result with the server's URIs as clients know them."""
        rewriter = self.registry.catalog.rewriters.get(server)
        return result if rewriter is None else rewriter.result(result)

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
    meta = dict(params.get("_meta") or ())
    meta.pop(META_AGENT, None)
    meta[requestid.META_REQUEST] = requestid.current()
    if trusted:
        meta[META_AGENT] = caller.agent.name
    return {**params, "_meta": meta}


def _label(entry: Entry) -> str:
    """A bounded label for metrics: URIs are not."""
    return entry.name.tool if entry.kind in ("tool", "prompt") else entry.kind


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
