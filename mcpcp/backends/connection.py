"""Connection: one live connection to one server, from its opening over the handshake to its end.

Above: `backend.Backend` keeps one that all clients share, `link.Link` one that is a client's own.
Below: `peer.Peer` over one of three transports.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

from mcpcp import __version__
from mcpcp.backends.addresses import Addresses
from mcpcp.backends.sse import SseTransport
from mcpcp.backends.stdio import StdioTransport
from mcpcp.backends.streamable import StreamableTransport
from mcpcp.backends.transports import BackendTransport, credential_headers
from mcpcp.config import ServerConfig
from mcpcp.config.environment import child_environment
from mcpcp.errors import (
    DeadlineExceeded,
    Interrupted,
    McpcpError,
    ProtocolError,
    Unavailable,
)
from mcpcp.jsonrpc import METHOD_NOT_FOUND, UNSUPPORTED_PROTOCOL_VERSION, Message, RpcError
from mcpcp.paramheaders import DeclaredBy
from mcpcp.peer import Back, Inbound, Peer
from mcpcp.protocol import (
    LATEST_LEGACY,
    LATEST_MODERN,
    LEGACY_VERSIONS,
    META_CLIENT_CAPABILITIES,
    META_CLIENT_INFO,
    META_VERSION,
)
from mcpcp.verbatim import whole

HANDSHAKE_TIMEOUT: Final = 120.0
"""Seconds for a server to start: many that start at once on a small machine take their time."""
PROBE_TIMEOUT: Final = 5.0
"""Seconds for `server/discover`, which some older servers do not even refuse."""
CLIENT_INFO: Final = {"name": "mcpcp", "version": __version__}
ENVELOPE: Final = (META_VERSION, META_CLIENT_INFO, META_CLIENT_CAPABILITIES)


@dataclass(frozen=True, slots=True)
class Hello:
    """How we introduce ourselves to a server: as ourselves, or as the client that we stand for."""

    version: str = LATEST_LEGACY
    capabilities: Message = field(default_factory=dict)
    info: Message = field(default_factory=lambda: dict(CLIENT_INFO))
    try_modern: bool = False
    extra: Message = field(default_factory=dict)

    @classmethod
    def of(cls, params: Message) -> Hello:
        """From a client's own `initialize`; members that we do not know are passed on."""
        known = ("protocolVersion", "capabilities", "clientInfo")
        version = params.get("protocolVersion")
        return cls(
            version=version if version in LEGACY_VERSIONS else LATEST_LEGACY,
            capabilities=params.get("capabilities") or {},
            info=params.get("clientInfo") or dict(CLIENT_INFO),
            extra={k: v for k, v in params.items() if k not in known},
        )

    def legacy(self) -> Message:
        """The params of `initialize`."""
        return {
            **self.extra,
            "protocolVersion": self.version,
            "capabilities": self.capabilities,
            "clientInfo": self.info,
        }

    def modern(self) -> Message:
        """The envelope of each request."""
        return {
            META_VERSION: LATEST_MODERN,
            META_CLIENT_INFO: self.info,
            META_CLIENT_CAPABILITIES: self.capabilities,
        }


@dataclass(frozen=True, slots=True)
class Reach:
    """How a server is reached: `credential` is what it knows us by, `declared` the arguments that
    calls mirror in headers, `addresses` its replicas where it may have some."""

    server: ServerConfig
    credential: str | None
    declared: DeclaredBy
    addresses: Addresses | None = None


class Connection:
    """A transport, the peer that speaks over it, and what the handshake said."""

    def __init__(self, reach: Reach, hello: Hello, inbound: Inbound) -> None:
        self.server = reach.server
        self.modern = False
        self.capabilities: Message = {}
        self.instructions: str | None = None
        self._hello = hello
        self._inbound = inbound
        self._transport = _open(reach)
        self._peer: Peer | None = None
        self._carrier: asyncio.Task[McpcpError | None] | None = None

    @property
    def pid(self) -> int | None:
        """The server's process, where it is our child."""
        return self._transport.pid if isinstance(self._transport, StdioTransport) else None

    @property
    def idle_since(self) -> float | None:
        """The loop time at which the last request ended; None while there is one."""
        return self._peer.idle_since if self._peer is not None else None

    async def run(self, use: Callable[[Connection], Awaitable[None]]) -> None:
        """Open, shake hands, and run `use`, until the connection or `use` ends.

        Raises McpcpError, which says how the connection ended; always, unless `use` returned.
        """
        opened = asyncio.Event()
        ended: McpcpError | None = None
        async with asyncio.TaskGroup() as tasks:
            self._peer = peer = Peer(self._transport, self._inbound, tasks)
            running = self._transport.run(opened.set, peer.receive, peer.fail)
            self._carrier = carrier = tasks.create_task(_outcome(running))
            user = tasks.create_task(_outcome(self._use(opened, use)))
            try:
                done, _ = await asyncio.wait((carrier, user), return_when=asyncio.FIRST_COMPLETED)
                ended = next((e for t in done if not t.cancelled() and (e := t.result())), None)
            finally:
                self._close(ended)
                user.cancel()
                carrier.cancel()
        if ended is not None or carrier in done:
            raise ended or Unavailable("the connection was closed")

    def drop(self) -> None:
        """End the connection; `run` then raises Unavailable."""
        if self._carrier is not None:
            self._carrier.cancel()

    async def request(self, method: str, params: Message, timeout: float) -> Any:
        """Send a request, and wait for what its result says; see `relay`."""
        return whole(await self.relay(method, params, timeout))

    def relay(
        self, method: str, params: Message, timeout: float, back: Back | None = None
    ) -> Coroutine[Any, Any, Any]:
        """Send a request in this server's era; its result, maybe Verbatim. See Peer.request."""
        if self._peer is None:
            raise Unavailable(f"{self.server.name} is not connected")
        return self._peer.request(method, self.enveloped(params), timeout, back)

    def notify(self, method: str, params: Message | None = None) -> None:
        """Send a notification when possible."""
        if self._peer is not None:
            self._peer.notify(method, params)

    def send_soon(self, method: str, params: Message) -> None:
        """Send a request whose answer nobody waits for."""
        if self._peer is not None:
            self._peer.send_soon(method, self.enveloped(params))

    def enveloped(self, params: Message) -> Message:
        """`params` as this server's era writes them; a modern client's own envelope stays."""
        if self.modern:
            return {**params, "_meta": {**self._hello.modern(), **(params.get("_meta") or {})}}
        meta = params.get("_meta")
        if meta and not meta.keys().isdisjoint(ENVELOPE):
            return {**params, "_meta": {k: v for k, v in meta.items() if k not in ENVELOPE}}
        return params

    async def _use(
        self, opened: asyncio.Event, use: Callable[[Connection], Awaitable[None]]
    ) -> None:
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                await opened.wait()
                await self._shake_hands()
        except TimeoutError:
            raise Unavailable(
                f"the server did not shake hands within {HANDSHAKE_TIMEOUT:g} s"
            ) from None
        await use(self)

    async def _shake_hands(self) -> None:
        """Agree on an era, and learn what the server can do."""
        if self._hello.try_modern and await self._discovered():
            return
        try:
            result = await self.request("initialize", self._hello.legacy(), HANDSHAKE_TIMEOUT)
        except RpcError as error:
            if error.error["code"] not in (METHOD_NOT_FOUND, UNSUPPORTED_PROTOCOL_VERSION):
                raise
            self._take(await self._discover())
            return
        self._take(result)
        self._transport.negotiated(_legacy_version(result))
        self.notify("notifications/initialized")

    async def _discovered(self) -> bool:
        """Whether the server proved to be of the modern era; all other answers mean legacy."""
        try:
            result = await self._discover()
        except (RpcError, Unavailable, ProtocolError, DeadlineExceeded) as error:
            self.modern = False
            if isinstance(error, Interrupted):
                raise
            return False
        self._take(result)
        return True

    async def _discover(self) -> Any:
        self.modern = True
        try:
            result = await self.request("server/discover", {}, PROBE_TIMEOUT)
        except RpcError as error:
            if not _names_our_version(error):
                raise
            result = await self.request("server/discover", {}, PROBE_TIMEOUT)
        versions = result.get("supportedVersions") if isinstance(result, dict) else None
        if not isinstance(versions, list) or LATEST_MODERN not in versions:
            raise ProtocolError(f"the server answered server/discover with {result!r:.200}")
        self._transport.negotiated(LATEST_MODERN)
        return result

    def _take(self, result: Any) -> None:
        if not isinstance(result, dict):
            raise ProtocolError(f"the server answered the handshake with {result!r:.200}")
        capabilities, instructions = result.get("capabilities"), result.get("instructions")
        self.capabilities = capabilities if isinstance(capabilities, dict) else {}
        self.instructions = instructions if isinstance(instructions, str) else None

    def _close(self, cause: McpcpError | None) -> None:
        name = self.server.name
        if self._peer is not None:
            self._peer.close(
                f"{name} is not connected",
                lambda: Interrupted(
                    f"{name} went away while the call was running"
                    + (f" ({cause})" if cause else "")
                ),
            )


def _legacy_version(result: Any) -> str:
    version = result.get("protocolVersion")
    if version not in LEGACY_VERSIONS:
        raise ProtocolError(f"the server answered protocol version {version!r:.50}")
    return str(version)


def _names_our_version(error: RpcError) -> bool:
    """Whether a server that refused a version names ours among those it would take."""
    data = error.error.get("data")
    supported = data.get("supported") if isinstance(data, dict) else None
    refused = error.error["code"] == UNSUPPORTED_PROTOCOL_VERSION
    return refused and isinstance(supported, list) and LATEST_MODERN in supported


async def _outcome(work: Coroutine[Any, Any, None]) -> McpcpError | None:
    """How `work` failed, if in a way that we know; other errors are for the task group."""
    try:
        await work
    except McpcpError as error:
        return error
    return None


def _open(reach: Reach) -> BackendTransport:
    server = reach.server
    if server.managed_by == "gateway":
        environment = child_environment(server.environment())
        return StdioTransport(server.name, server.argv(), environment, server.cwd)
    own = reach.credential if server.managed_by == "supervisor" else None
    headers = credential_headers(server.headers, own)
    endpoint = server.endpoint()
    if endpoint is None:
        raise Unavailable(f"server {server.name} has no address")
    if server.transport == "sse":
        return SseTransport(endpoint, headers, reach.addresses)
    return StreamableTransport(endpoint, headers, reach.declared, reach.addresses)
