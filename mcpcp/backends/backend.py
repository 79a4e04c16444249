"""Backend: one configured server; its owner task connects, lists what it offers, reconnects.

Above: `registry` merges the offers of all. Its connection is shared: lists come from it, and so do
the calls of modern clients and of stdio servers. A server's death ends what is in flight on it with
a clear error, nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from mcpcp.backends.addresses import Address, Addresses, Started, addresses_of
from mcpcp.backends.connection import HANDSHAKE_TIMEOUT, Connection, Hello, Reach
from mcpcp.backends.followers import Followers, Say
from mcpcp.backends.line import Line
from mcpcp.backends.offering import CHANGES, list_offer
from mcpcp.backends.places import Places
from mcpcp.backends.variants import MOST_PROFILES, Variants
from mcpcp.catalog import KINDS, VARYING, Offer
from mcpcp.config import ServerConfig
from mcpcp.errors import DeadlineExceeded, Interrupted, McpcpError, ProtocolError
from mcpcp.fleet import ProcessState, ProcessStatus
from mcpcp.jsonrpc import METHOD_NOT_FOUND, Message, RpcError
from mcpcp.paramheaders import Declared, declared
from mcpcp.peer import Back
from mcpcp.profiles import BASE, Profile, capabilities_of
from mcpcp.protocol import LISTEN, UPDATED
from mcpcp.turns import Turns

logger = logging.getLogger(__name__)

FIRST_RETRY: Final = 0.02
LAST_RETRY: Final = 10.0
SOON: Final = 0.5
"""Seconds between tries to reach a server that ought to be there in a moment."""
STABLE_AFTER: Final = 1.0
"""Seconds of service after which a server that dies is started again at once."""
LOOK_AGAIN: Final = 5.0
"""Seconds after which a list that may change without a word is asked for again, where a client
wants to see it."""
_DEBOUNCE: Final = 0.05
_LISTEN_AGAIN: Final = 1.0
_LISTENING: Final = 10 * 365 * 86400.0
"""Seconds for a subscription, whose answer is its end."""


class Backend:
    """`run` is the owner task; `on_change` is called when its offer or its state has changed."""

    def __init__(
        self,
        server: ServerConfig,
        credential: str | None,
        on_change: Callable[[], None],
        *,
        templates: bool = False,
        patience: float = 0.0,
    ) -> None:
        """`patience` is for how many seconds a server that others start may fail to answer."""
        self.server = server
        self.offer: Offer | None = None
        self.variants = Variants(on_change)
        self.reach = Reach(server, credential, self.declared, self._addresses())
        self.turns = Turns(server.name)
        self.places = Places(server.max_sessions)
        self._announced: dict[str, int] = {}
        self.log_level: str | None = None
        """Set last by a client, where all share the connection."""
        self.restarts = -1
        self.down_since = asyncio.get_running_loop().time()
        self.line = Line(server, self._why_hopeless)
        self.moved = asyncio.Event()
        self._on_change = on_change
        self._attempt: Connection | None = None
        self._stale = asyncio.Event()
        self._followed = asyncio.Event()
        self._followers = Followers(self._followed.set)
        self._declared: dict[str, Declared] = {}
        self._wants_templates = templates
        self._profiles: list[Profile] = []
        self._fresh: set[Profile] = set()
        self._look_at = float("inf")
        self._processes: tuple[ProcessStatus, ...] = ()
        self._supervised = False
        self._patience = patience if server.transport != "stdio" else 0.0
        self._patient_until = self.down_since + self._patience

    # What the gateway asks.

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self.line.connection is not None

    @property
    def error(self) -> str | None:
        """Why there is none."""
        return self.line.error

    @property
    def modern(self) -> bool:
        """Whether the server speaks the modern era; False while that is not known."""
        return self.offer is not None and self.offer.modern

    @property
    def has_sessions(self) -> bool:
        """Whether each client has a session of its own; a stdio server is one process and one."""
        return self.server.transport != "stdio" or self.has_places

    @property
    def has_places(self) -> bool:
        """Whether each client's own session is a process, of which there are only so many."""
        return self.server.transport == "stdio" and self.server.sessions == "per_client"

    @property
    def gave_up(self) -> bool:
        """Whether nobody expects the server soon: its process is FATAL or stopped on purpose."""
        final = (ProcessState.FATAL, ProcessState.STOPPED, ProcessState.EXITED)
        return self._supervised and all(p.state in final for p in self._processes)

    @property
    def tried(self) -> bool:
        """Whether it is connected, or has shown that it can't be for now."""
        if self.connected or self._supervised:
            return self.connected or self.gave_up
        return not self._may_be_coming and (self.error is not None or self._patience > 0)

    @property
    def _may_be_coming(self) -> bool:
        """Whether whoever starts it may only just have done so."""
        return asyncio.get_running_loop().time() < self._patient_until

    @property
    def may_connect(self) -> bool:
        """Where a supervisor starts the server, its port may be a stranger's until it says so."""
        return not self._supervised or any(map(_runs, self._processes))

    def status(self) -> ProcessStatus:
        """Where it stands, in the supervisor's words; for servers that the supervisor has not."""
        state = ProcessState.RUNNING if self.connected else ProcessState.STARTING
        if not self.connected and self.error is not None:
            state = ProcessState.BACKOFF
        return ProcessStatus(
            name=self.server.name,
            state=state,
            pid=self.line.connection.pid if self.line.connection else None,
            since=self.down_since,
            restarts=max(self.restarts, 0),
            error=None if self.connected else self.error,
        )

    # What the fleet says.

    def follow(self, processes: tuple[ProcessStatus, ...]) -> None:
        """Take the supervisor's word on the server's processes: connect only to what is RUNNING."""
        first, was = not self._supervised, self._processes
        self._supervised, self._processes = True, processes
        if processes and not self.may_connect and not self.connected:
            self.line.error = self._trouble() or f"its process is {processes[0].state}"
        if first or [(p.state, p.pid) for p in was] != [(p.state, p.pid) for p in processes]:
            if self.connected and not _running(processes) <= _running(was):
                self._list_again()  # nothing else may tell what a new process offers
            self.moved.set()
            self.line.wake()
            self._on_change()

    def adapt(self, server: ServerConfig) -> None:
        """Go on by an entry that differs in nothing but its replicas."""
        self.server = server

    def _addresses(self) -> Addresses | None:
        if self.server.url is not None:
            return addresses_of(self.server.url)
        if self.server.managed_by == "supervisor" and self.server.transport == "http":
            return Addresses(Started(self._listening))
        return None

    def _listening(self) -> list[Address]:
        """Where its processes listen; a supervisor says which of them do, if there is one."""
        ports = (
            [p.port for p in self._processes if _runs(p)]
            if self._supervised
            else [one.port for one in self.server.each()]
        )
        return [("127.0.0.1", port) for port in ports if port is not None]

    def _trouble(self) -> str | None:
        return next((p.error for p in self._processes if p.error), None)

    def reconnect(self) -> None:
        """Drop the connection, which restarts a stdio server, and connect again at once."""
        self.moved.set()
        if self._attempt is not None:
            self._attempt.drop()

    def declared(self, tool: Any) -> Declared:
        """Which arguments of a tool its calls mirror in headers."""
        return self._declared.get(tool, {}) if isinstance(tool, str) else {}

    @property
    def varies(self) -> bool:
        """Whether it may show one client what it does not show to another."""
        return self.modern or self.has_sessions

    def want_templates(self) -> None:
        """List resource templates too from now on: few clients ever ask for them."""
        if not self._wants_templates:
            self._wants_templates = True
            self._fresh.discard(BASE)
            self._stale.set()

    def want_list(self, profile: Profile) -> None:
        """In the modern era: list also as a client of that profile."""
        if profile not in self._profiles:
            self._profiles = [*self._profiles, profile][-MOST_PROFILES:]
            self._fresh.discard(profile)
            self._stale.set()

    def announce(self, change: str) -> None:
        """The server says that a list has changed: list again, soon, and pass that on."""
        self._announced[change] = self._announced.get(change, 0) + 1
        self._list_again()

    def look_again(self) -> None:
        """A client wants to see the lists: have those made anew that may change without a word."""
        if asyncio.get_running_loop().time() >= self._look_at:
            self._list_again()

    def _list_again(self) -> None:
        self._look_at = float("inf")
        self._fresh.clear()
        self._stale.set()

    async def follow_resource(
        self, uri: str, told: Callable[[Message], None], *, patient: bool = False
    ) -> Callable[[], None]:
        """Subscribe to a resource on the shared connection; returns what ends that again.

        Raises McpcpError; but who is `patient` follows also where the server can't be told now.
        """
        leave = self._followers.add(uri, told)
        try:
            if not (self.modern or (patient and not self.connected)):
                await self._followers.subscribe(uri, self._say_in_time)
        except RpcError:
            leave()
            raise
        except McpcpError:
            if not patient:
                leave()
                raise
        except asyncio.CancelledError:
            leave()
            raise
        return leave

    async def _say_in_time(self, method: str, uri: str) -> None:
        await self.line.relay(method, {"uri": uri}, repeatable=True)

    # The owner task.

    async def run(self) -> None:
        """Keep connected until cancelled."""
        loop = asyncio.get_running_loop()
        if self._may_be_coming:
            loop.call_at(self._patient_until, self._on_change)
        delay = FIRST_RETRY
        while True:
            await self.until_allowed()
            began = loop.time()
            self._went_down(await self._attempt_once())
            if loop.time() - began > STABLE_AFTER:
                delay = FIRST_RETRY
            self.moved.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay * random.uniform(0.75, 1.25)):  # noqa: S311
                    await self.moved.wait()
            soon = self._supervised or self._may_be_coming
            delay = min(delay * 2, SOON if soon else LAST_RETRY)

    async def until_allowed(self) -> None:
        """Wait until connecting makes sense."""
        while not self.may_connect:
            self.moved.clear()
            await self.moved.wait()

    async def _attempt_once(self) -> str:
        """One connection, from its opening to its end; why it ended."""
        # Where legacy clients have sessions of their own, this connection is for modern ones.
        hello = Hello(try_modern=self.has_sessions)
        try:
            self._attempt = Connection(self.reach, hello, self)
            await self._attempt.run(self._use)
        except McpcpError as error:
            return str(error)
        except Exception:
            logger.exception("the connection to %s failed in an unforeseen way", self.server.name)
            return "internal error: the gateway's log has the details"
        finally:
            self._attempt = None
        return "the connection has ended"

    async def _use(self, connection: Connection) -> None:
        """List what is on offer, and list again whenever it may have changed."""
        self._fresh.clear()
        await self._list_stale(connection)
        if not connection.modern:
            await self._renew(connection)
        self.restarts += 1
        self.down_since = asyncio.get_running_loop().time()
        self.line.put(connection)
        self._on_change()
        logger.info("%s is connected: %s", self.server.name, self.offer)
        async with asyncio.TaskGroup() as tasks:
            following = (
                self._subscribe(connection)
                if connection.modern
                else self._followers.keep(_saying(connection))
            )
            tasks.create_task(following)
            while True:
                await self._stale.wait()
                await asyncio.sleep(_DEBOUNCE)
                self._stale.clear()
                try:
                    await self._list_stale(connection)
                except (RpcError, DeadlineExceeded, ProtocolError) as error:
                    logger.warning("%s does not list again: %s", self.server.name, error)

    async def _renew(self, connection: Connection) -> None:
        """Tell a legacy server again what it knew before its connection was lost."""
        if self.log_level is not None:
            with contextlib.suppress(RpcError):
                params = {"level": self.log_level}
                await connection.request("logging/setLevel", params, HANDSHAKE_TIMEOUT)
        await self._followers.renew(_saying(connection))

    async def _subscribe(self, connection: Connection) -> None:
        """A modern server tells of changes only whom asks it to; the old subscription ends last."""
        async with asyncio.TaskGroup() as tasks:
            current: asyncio.Task[None] | None = None
            while True:
                self._followed.clear()
                self._followers.forget()
                wanted = self._wanted(connection)
                new = tasks.create_task(_listen(connection, wanted)) if wanted else None
                if current is not None:
                    await asyncio.sleep(_DEBOUNCE)
                    current.cancel()
                current = new
                await self._followed.wait()

    def _wanted(self, connection: Connection) -> Message:
        announced = _announced(connection).items()
        wanted: Message = {f"{name}ListChanged": True for name, is_told in announced if is_told}
        if uris := self._followers.uris:
            wanted["resourceSubscriptions"] = uris
        return wanted

    async def _list_stale(self, connection: Connection) -> None:
        """List what may have changed, on our own account and as clients that are shown more."""
        if not _announces(connection):
            self._look_at = asyncio.get_running_loop().time() + LOOK_AGAIN
        if BASE not in self._fresh:
            self._fresh.add(BASE)
            announced = dict(self._announced)  # what is said while we list may be missing in it
            offer = await list_offer(connection, KINDS if self._wants_templates else VARYING)
            self._replace_offer(replace(offer, announced=announced))
        if connection.modern:
            for profile in [p for p in self._profiles if p not in self._fresh]:
                await self._list_as(connection, profile)

    async def _list_as(self, connection: Connection, profile: Profile) -> None:
        self._fresh.add(profile)
        try:
            offer = await list_offer(connection, VARYING, capabilities_of(profile))
        except (RpcError, DeadlineExceeded) as error:
            logger.info("%s lists nothing to some clients: %s", self.server.name, error)
            self.variants.give_up(profile)
        else:
            self.variants.put(profile, offer, self)

    # What a server says on the shared connection.

    def on_notification(self, message: Message) -> None:
        """Changes are ours to follow; nothing else on a shared connection is for one client."""
        params = message.get("params")
        if message["method"] in CHANGES:
            self.announce(message["method"])
        elif message["method"] == UPDATED and isinstance(params, dict):
            self._followers.tell(str(params.get("uri")), message)

    async def on_request(self, message: Message, back: Back | None) -> Any:
        """A shared connection has offered the server no client capabilities."""
        raise RpcError(METHOD_NOT_FOUND, f"Method not found: {message['method']}")

    # What changes when a connection comes and goes.

    def _replace_offer(self, offer: Offer) -> None:
        if offer == self.offer:
            return
        if self.offer is not None and self.offer.names() != offer.names():
            self.variants.forget_unkept()
        self.offer = offer
        found = ((t["name"], declared(t.get("inputSchema"))) for t in offer.tools)
        self._declared = {name: headers for name, headers in found if headers}
        self._on_change()

    def _went_down(self, reason: str) -> None:
        was = (self.connected, self.error)
        if self.connected:
            self.down_since = asyncio.get_running_loop().time()
            logger.warning("%s: %s", self.server.name, reason)
        self.line.take_out(reason)
        if was != (False, reason):
            self._on_change()

    def _why_hopeless(self) -> str | None:
        if not self.gave_up:
            return None
        return self._trouble() or "it is not started"


def _running(processes: tuple[ProcessStatus, ...]) -> set[int | None]:
    return {p.pid for p in processes if _runs(p)}


def _runs(process: ProcessStatus) -> bool:
    return process.state is ProcessState.RUNNING


def _announced(connection: Connection) -> dict[str, bool]:
    """Which lists there are, and whether the server says when they change."""
    found = (
        (name, connection.capabilities.get(name)) for name in ("tools", "prompts", "resources")
    )
    return {n: bool(c.get("listChanged")) for n, c in found if isinstance(c, dict)}


def _announces(connection: Connection) -> bool:
    """Whether no list of the server's changes without a word."""
    return all({"tools": False, **_announced(connection)}.values())


def _saying(connection: Connection) -> Say:
    return lambda method, uri: connection.request(method, {"uri": uri}, HANDSHAKE_TIMEOUT)


async def _listen(connection: Connection, wanted: Message) -> None:
    """Keep a subscription open; a server that refuses it has to be believed its lists."""
    while wanted:
        try:
            await connection.request(LISTEN, {"notifications": wanted}, _LISTENING)
        except RpcError as error:
            logger.warning("%s refuses a subscription: %s", connection.server.name, error)
            # One client's resources must not cost everybody the changes of lists.
            kept = wanted if "resourceSubscriptions" in wanted else {}
            wanted = {k: v for k, v in kept.items() if k != "resourceSubscriptions"}
            continue
        except Interrupted as error:
            logger.info("a subscription has ended: %s", error)
        except McpcpError:
            connection.drop()  # the server is gone; nothing else would tell of it
        await asyncio.sleep(_LISTEN_AGAIN)
