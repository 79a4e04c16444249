"""Backend: our live connection to one tool server; one owner task connects, lists, reconnects.

Above: `gateway` sends calls and merges offers. Below: `jsonrpc.Peer` over one of three transports.
A server's death ends what is in flight on it with a clear error, nothing else: the next call waits,
bounded, for the next connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Coroutine
from typing import Any, Final

from mcpcp import __version__
from mcpcp.backends.sse import SseTransport
from mcpcp.backends.stdio import StdioTransport
from mcpcp.backends.streamable import StreamableTransport
from mcpcp.backends.transports import BackendTransport, credential_headers
from mcpcp.catalog import Offer
from mcpcp.config import ServerConfig
from mcpcp.config.environment import child_environment
from mcpcp.errors import Interrupted, McpcpError, ProtocolError, Unavailable
from mcpcp.fleet import ProcessState, ProcessStatus
from mcpcp.jsonrpc import (
    LATEST_LEGACY,
    LATEST_MODERN,
    LEGACY_VERSIONS,
    META_CLIENT_CAPABILITIES,
    META_CLIENT_INFO,
    META_VERSION,
    METHOD_NOT_FOUND,
    UNSUPPORTED_PROTOCOL_VERSION,
    Message,
    Notify,
    Peer,
    RpcError,
)

logger = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT: Final = 30.0
RESTART_WAIT: Final = 15.0
"""Seconds a call waits at most for a server that is being restarted."""
FIRST_RETRY: Final = 0.02
LAST_RETRY: Final = 10.0
STABLE_AFTER: Final = 5.0
MOST_PAGES: Final = 100
_DEBOUNCE: Final = 0.05
_CLIENT_INFO: Final = {"name": "mcpcp", "version": __version__}
_MODERN_ENVELOPE: Final = {
    META_VERSION: LATEST_MODERN,
    META_CLIENT_INFO: _CLIENT_INFO,
    META_CLIENT_CAPABILITIES: {},
}


class Backend:
    """One configured server as the gateway sees it; `run` is its owner task.

    `on_change` is called when its offer or its state has changed.
    """

    def __init__(
        self, server: ServerConfig, credential: str | None, on_change: Callable[[], None]
    ) -> None:
        self.server = server
        self.offer: Offer | None = None
        self.error: str | None = None
        self.connected = False
        self.down_since = asyncio.get_running_loop().time()
        self.restarts = -1
        self._credential = credential
        self._on_change = on_change
        self._peer: Peer | None = None
        self._transport: BackendTransport | None = None
        self._carrier: asyncio.Task[McpcpError | None] | None = None
        self._modern = False
        self._ready = asyncio.Event()
        self._moved = asyncio.Event()
        self._stale = asyncio.Event()
        self._process: ProcessStatus | None = None
        self._supervised = False

    # What the gateway asks.

    @property
    def in_flight(self) -> int:
        """Requests that wait for this server."""
        return self._peer.in_flight if self._peer else 0

    @property
    def gave_up(self) -> bool:
        """Whether nobody expects the server soon: its process is FATAL or stopped on purpose."""
        if not self._supervised:
            return False
        final = (ProcessState.FATAL, ProcessState.STOPPED, ProcessState.EXITED)
        return self._process is None or self._process.state in final

    @property
    def tried(self) -> bool:
        """Whether it is connected, or has shown that it can't be for now."""
        failed = self.error is not None and not self._supervised
        return self.connected or failed or self.gave_up

    def status(self) -> ProcessStatus:
        """Where it stands, in the supervisor's words; for servers that the supervisor has not."""
        state = ProcessState.RUNNING if self.connected else ProcessState.STARTING
        if not self.connected and self.error is not None:
            state = ProcessState.BACKOFF
        pid = self._transport.pid if isinstance(self._transport, StdioTransport) else None
        return ProcessStatus(
            name=self.server.name,
            state=state,
            pid=pid,
            since=self.down_since,
            restarts=max(self.restarts, 0),
            error=None if self.connected else self.error,
        )

    async def request(
        self,
        method: str,
        params: Message,
        *,
        notify: Notify | None = None,
        repeatable: bool = False,
    ) -> Any:
        """Send a request and wait for its result, at most the server's `timeout` without progress.

        A request that certainly was not delivered is sent to the next connection; one that was is
        repeated only where `repeatable`. Raises RpcError, Unavailable, Interrupted,
        DeadlineExceeded.
        """
        timeout = self.server.timeout
        give_up_at = asyncio.get_running_loop().time() + min(timeout, RESTART_WAIT)
        while True:
            peer = self._peer or await self._wait_ready(give_up_at)
            try:
                return await peer.request(method, self._enveloped(params), timeout, notify)
            except Interrupted:
                if not repeatable:
                    raise
                repeatable = False
            except Unavailable:
                pass
            await self._wait_for_other(peer, give_up_at)

    # What the fleet says.

    def follow(self, process: ProcessStatus | None) -> None:
        """Take the supervisor's word on the server's process: connect only while it is RUNNING."""
        was = self._process
        self._supervised, self._process = True, process
        if process is not None and process.state is not ProcessState.RUNNING:
            self.error = process.error or f"its process is {process.state}"
        if was is None or process is None or (was.state, was.pid) != (process.state, process.pid):
            self._moved.set()
            self._on_change()

    def reconnect(self) -> None:
        """Drop the connection, which restarts a stdio server, and connect again at once."""
        self._moved.set()
        if self._carrier is not None:
            self._carrier.cancel()

    # The owner task.

    async def run(self) -> None:
        """Keep connected until cancelled."""
        loop = asyncio.get_running_loop()
        delay = FIRST_RETRY
        while True:
            await self._until_allowed()
            began = loop.time()
            try:
                await self._connect()
            except McpcpError as error:
                self._went_down(str(error))
            except Exception:
                logger.exception(
                    "the connection to %s failed in an unforeseen way", self.server.name
                )
                self._went_down("internal error: the gateway's log has the details")
            if loop.time() - began > STABLE_AFTER:
                delay = FIRST_RETRY
            self._moved.clear()
            await self._moved_or(delay * random.uniform(0.75, 1.25))  # noqa: S311  (jitter)
            delay = min(delay * 2, LAST_RETRY if not self._supervised else 0.5)

    async def _until_allowed(self) -> None:
        """Where a supervisor starts the server, its port may be a stranger's until it says so."""
        while self._supervised and (
            self._process is None or self._process.state is not ProcessState.RUNNING
        ):
            self._moved.clear()
            await self._moved.wait()

    async def _connect(self) -> None:
        """One connection from its opening to its end."""
        transport = self._transport = _open(self.server, self._credential)
        peer = Peer(transport, self._on_notification)
        opened = asyncio.Event()
        ended: McpcpError | None = None
        async with asyncio.TaskGroup() as tasks:
            running = transport.run(opened.set, peer.receive, peer.fail)
            self._carrier = carrier = tasks.create_task(_outcome(running))
            user = tasks.create_task(_outcome(self._use(peer, transport, opened)))
            try:
                done, _ = await asyncio.wait((carrier, user), return_when=asyncio.FIRST_COMPLETED)
                ended = next(
                    (e for task in done if not task.cancelled() and (e := task.result())), None
                )
            finally:
                self._lost(peer, ended)
                user.cancel()
                carrier.cancel()
        raise ended or Unavailable("the server closed the connection")

    async def _use(self, peer: Peer, transport: BackendTransport, opened: asyncio.Event) -> None:
        """Shake hands, list what is on offer, and list again whenever it may have changed."""
        async with asyncio.timeout(HANDSHAKE_TIMEOUT) as opening:
            try:
                await opened.wait()
                instructions = await self._shake_hands(peer, transport)
                offer = Offer(await self._list_tools(peer), instructions)
                opening.reschedule(None)
            except TimeoutError:
                raise Unavailable(
                    f"the server did not shake hands within {HANDSHAKE_TIMEOUT:g} s"
                ) from None
        self._came_up(peer, offer)
        while True:
            await self._stale.wait()
            await asyncio.sleep(_DEBOUNCE)
            self._stale.clear()
            self._replace_offer(Offer(await self._list_tools(peer), instructions))

    async def _shake_hands(self, peer: Peer, transport: BackendTransport) -> str | None:
        """Agree on an era; the server's instructions."""
        self._modern = False
        params = {
            "protocolVersion": LATEST_LEGACY,
            "capabilities": {},
            "clientInfo": _CLIENT_INFO,
        }
        try:
            result = await peer.request("initialize", params, HANDSHAKE_TIMEOUT)
        except RpcError as error:
            if error.error["code"] not in (METHOD_NOT_FOUND, UNSUPPORTED_PROTOCOL_VERSION):
                raise
            self._modern = True
            result = await peer.request("server/discover", self._enveloped({}), HANDSHAKE_TIMEOUT)
        transport.negotiated(LATEST_MODERN if self._modern else _legacy_version(result))
        if not self._modern:
            peer.notify("notifications/initialized")
        instructions = result.get("instructions") if isinstance(result, dict) else None
        return instructions if isinstance(instructions, str) else None

    async def _list_tools(self, peer: Peer) -> tuple[dict[str, Any], ...]:
        tools: list[dict[str, Any]] = []
        cursor: Any = None
        for _ in range(MOST_PAGES):
            params = {"cursor": cursor} if cursor is not None else {}
            try:
                page = await peer.request("tools/list", self._enveloped(params), HANDSHAKE_TIMEOUT)
            except RpcError as error:
                if error.error["code"] == METHOD_NOT_FOUND:  # a server without tools
                    break
                raise
            tools += _valid_tools(page, self.server.name)
            cursor = page.get("nextCursor")
            if cursor is None:
                break
        return tuple(tools)

    def _enveloped(self, params: Message) -> Message:
        """`params` as this server's era writes them."""
        if self._modern:
            return {**params, "_meta": {**_MODERN_ENVELOPE, **(params.get("_meta") or {})}}
        return params

    # What changes when a connection comes and goes.

    def _came_up(self, peer: Peer, offer: Offer) -> None:
        self._peer = peer
        self.connected, self.error = True, None
        self.restarts += 1
        self.down_since = asyncio.get_running_loop().time()
        self._ready.set()
        logger.info("%s is connected and offers %d tools", self.server.name, len(offer.tools))
        self._replace_offer(offer)

    def _replace_offer(self, offer: Offer) -> None:
        self.offer = offer
        self._on_change()

    def _lost(self, peer: Peer, cause: McpcpError | None) -> None:
        name = self.server.name
        peer.close(
            f"{name} is not connected",
            lambda: Interrupted(
                f"{name} went away while the call was running: whether it took effect is not known"
                + (f" ({cause})" if cause else "")
            ),
        )
        self._ready.clear()
        self._transport = self._carrier = self._peer = None

    def _went_down(self, reason: str) -> None:
        was = (self.connected, self.error)
        if self.connected:
            self.down_since = asyncio.get_running_loop().time()
            logger.warning("%s: %s", self.server.name, reason)
        self.connected, self.error = False, reason
        if was != (False, reason):
            self._on_change()

    def _on_notification(self, message: Message) -> None:
        if message["method"] == "notifications/tools/list_changed":
            self._stale.set()

    # Waiting.

    async def _wait_ready(self, give_up_at: float) -> Peer:
        while self._peer is None:
            if self.gave_up:
                raise self._unavailable()
            try:
                async with asyncio.timeout_at(give_up_at):
                    await self._ready.wait()
            except TimeoutError:
                raise self._unavailable() from None
        return self._peer

    async def _wait_for_other(self, peer: Peer, give_up_at: float) -> None:
        """Give the owner task its chance to notice that `peer` is dead."""
        loop = asyncio.get_running_loop()
        while self._peer is peer:
            if loop.time() >= give_up_at:
                raise self._unavailable()
            await asyncio.sleep(0.01)

    def _unavailable(self) -> Unavailable:
        reason = f": {self.error}" if self.error else ""
        return Unavailable(f"server {self.server.name} is not available for now{reason}")

    async def _moved_or(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._moved.wait()


def _legacy_version(result: Any) -> str:
    version = result.get("protocolVersion") if isinstance(result, dict) else None
    if version not in LEGACY_VERSIONS:
        raise ProtocolError(f"the server answered protocol version {version!r:.50}")
    return str(version)


async def _outcome(work: Coroutine[Any, Any, None]) -> McpcpError | None:
    """How `work` failed, if in a way that we know; other errors are for the task group."""
    try:
        await work
    except McpcpError as error:
        return error
    return None


def _open(server: ServerConfig, credential: str | None) -> BackendTransport:
    if server.managed_by == "gateway":
        environment = child_environment(server.environment())
        return StdioTransport(server.name, server.argv(), environment, server.cwd)
    own = credential if server.managed_by == "supervisor" else None
    headers = credential_headers(server.headers, own)
    endpoint = server.endpoint()
    if endpoint is None:
        raise Unavailable(f"server {server.name} has no address")
    transport = SseTransport if server.transport == "sse" else StreamableTransport
    return transport(endpoint, headers)


def _valid_tools(page: Any, server: str) -> list[dict[str, Any]]:
    tools = page.get("tools") if isinstance(page, dict) else None
    if not isinstance(tools, list):
        raise ProtocolError("the server answered tools/list with something else than a list")
    good = [t for t in tools if isinstance(t, dict) and isinstance(t.get("name"), str)]
    if len(good) < len(tools):
        logger.warning("%s: ignored %d tools without a name", server, len(tools) - len(good))
    return good
