"""The registry: all backends, the catalog made of their offers, and who is told when it changes.

Above: `gateway` looks calls up in `catalog` and sends them to `backend(...)`. Below: one Backend a
server. The catalog is rebuilt whole and swapped; nobody ever sees half a change.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from mcpcp.backends.backend import Backend
from mcpcp.catalog import KINDS, Catalog, Offer, build, exposed_tool, merged, several_sources
from mcpcp.config import Config, ServerConfig
from mcpcp.credentials import credential_for
from mcpcp.errors import Unavailable
from mcpcp.fleet import FleetState, ProcessStatus
from mcpcp.metrics import ServerFigures
from mcpcp.names import ToolName
from mcpcp.offers import OfferStore
from mcpcp.pins import FilePins, PinBook, PinStore
from mcpcp.policy import Allowlist
from mcpcp.profiles import Profile
from mcpcp.sanitize import clean, clean_all

logger = logging.getLogger(__name__)

_DEBOUNCE: Final = 0.02


class Registry:
    """Owns the backends; `run` is the task they live in."""

    def __init__(
        self, config: Config, credential: str | None, pins: PinStore | None = None
    ) -> None:
        """`credential` is the fleet's secret, from which each server's own comes."""
        self.config = config
        self.catalog = Catalog()
        self._credential = credential
        self._store = OfferStore(config.data_dir / "offers")
        self._pins = PinBook(pins or FilePins(config.pins_path))
        self.withheld: Mapping[str, ToolName] = {}
        """Tools that await approval, by the name under which they would be offered."""
        self._quarantined: dict[str, tuple[str, ...]] = {}
        self._cleaned: dict[str, tuple[Offer, Mapping[Profile, Offer], Offer]] = {}
        self._offers = {
            name: self._vetted(config.servers[name], offer, {})
            for name, offer in self._store.load(config.servers).items()
        }
        self._backends: dict[str, Backend] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._fleet: FleetState | None = None
        self._watchers: set[Callable[[], None]] = set()
        self._settled = asyncio.Event()
        self._rebuild_timer: asyncio.TimerHandle | None = None

    # What the gateway asks.

    def backend(self, server: str) -> Backend:
        """The connection to `server`; Unavailable when the config has lost it meanwhile."""
        try:
            return self._backends[server]
        except KeyError:
            raise Unavailable(f"server {server} is not configured any more") from None

    def backends(self, servers: Iterable[str]) -> list[Backend]:
        """The connections to those of `servers` that the config still has."""
        return [b for b in map(self._backends.get, servers) if b is not None]

    @property
    def ready(self) -> bool:
        """Whether every server that can start has, and its offer is in the catalog.

        A server that others start has `first_list_wait` from our own start on: it may be starting.
        """
        pending = self._rebuild_timer is not None
        return not pending and all(backend.tried for backend in self._backends.values())

    def waiting(self) -> list[str]:
        """The servers that `ready` waits for."""
        return [name for name, backend in self._backends.items() if not backend.tried]

    def figures(self) -> Iterator[ServerFigures]:
        """How each server's connection stands."""
        for name, backend in self._backends.items():
            reconnects = max(backend.restarts, 0)
            withheld = sum(tool.server == name for tool in self.withheld.values())
            yield ServerFigures(
                name, backend.connected, reconnects, backend.turns.waiting, withheld
            )

    def statuses(self) -> tuple[ProcessStatus, ...]:
        """Where the servers stand that the supervisor does not know: stdio and remote ones."""
        own = (b for b in self._backends.values() if b.server.managed_by != "supervisor")
        told = self._fleet or FleetState()
        return tuple(b.status() for b in own if told.get(b.server.name) is None)

    @contextlib.contextmanager
    def watch(self, changed: Callable[[], None]) -> Iterator[None]:
        """Have `changed` called after each new catalog, while the context is open."""
        self._watchers.add(changed)
        try:
            yield
        finally:
            self._watchers.discard(changed)

    async def first_offers(self, allow: Allowlist) -> None:
        """Wait, once and bounded, for servers in `allow` that were never seen: many clients ignore
        list_changed, so an empty first list would be an empty session."""
        await self._until(lambda: not self.expecting(allow))

    def look_again(self, servers: Iterable[str]) -> None:
        """A client wants to see what `servers` offer: it may have changed without a word."""
        for backend in self.backends(servers):
            backend.look_again()

    async def templates(self, servers: Iterable[str]) -> None:
        """Have `servers` list their templates, and wait for those that are here, once, bounded."""
        asked = self.catalog.unlisted.intersection(servers)
        for backend in self.backends(asked):
            backend.want_templates()

        def known() -> bool:  # by the catalog: a backend has listed them a moment before
            missing = self.backends(self.catalog.unlisted & asked)
            return not any(backend.connected for backend in missing)

        await self._until(known)

    async def variants(self, profile: Profile, backends: Iterable[Backend]) -> None:
        """Wait for what those servers show to clients of `profile`, once and bounded."""
        patience = self.config.gateway.first_list_wait
        awaited = [b for b in backends if b.connected]
        await self._until(lambda: all(b.variants.known(profile, patience) for b in awaited))

    async def _until(self, known: Callable[[], bool]) -> None:
        """Wait until `known`, and until the catalog knows; at most `first_list_wait`."""
        if known():
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.config.gateway.first_list_wait):
                while not known() or self._rebuild_timer is not None:
                    self._settled.clear()
                    await self._settled.wait()

    # What the fleet and the config file say.

    def follow(self, fleet: FleetState) -> None:
        """Hand each supervised server the supervisor's word on its process."""
        self._fleet = fleet
        for name, backend in self._backends.items():
            self._follow(backend, fleet.of(name))

    def apply(self, config: Config) -> None:
        """Take over a changed config; only servers whose entry changed lose their connection."""
        old, self.config = self.config.servers, config
        for name, backend in list(self._backends.items()):
            server = config.servers.get(name)
            if server is None or not server.reached_like(old[name]):
                self._remove(name)
            else:
                backend.adapt(server)
        self._start_missing()
        self._changed()

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a client's own connection beside the backends; whoever asked for it cancels it."""
        if self._group is None:
            raise Unavailable("the gateway is stopping")
        return self._group.create_task(work)

    def restart(self, name: str) -> None:
        """Drop the connection to `name`, which restarts a stdio server."""
        self.backend(name).reconnect()

    async def run(self, started: Callable[[], None]) -> None:
        """Keep every backend connected until cancelled; `started` is called once they exist."""
        async with asyncio.TaskGroup() as self._group:
            self._start_missing(self.config.gateway.first_list_wait)
            self._rebuild()
            started()
            await self._pins.follow(self._changed)

    # Backends come and go.

    def _start_missing(self, patience: float = 0.0) -> None:
        """Without patience later: a new entry must not make a gateway unready for long."""
        for name, server in self.config.servers.items():
            if name not in self._backends and not server.disabled and server.speaks_mcp:
                self._add(server, patience)

    def _add(self, server: ServerConfig, patience: float) -> None:
        known = self._offers.get(server.name)
        templates = known is not None and known.templates is not None
        secret = self._credential
        credential = None if secret is None else credential_for(secret, server.name)
        backend = Backend(server, credential, self._changed, templates=templates, patience=patience)
        self._backends[server.name] = backend
        if self._fleet is not None:
            self._follow(backend, self._fleet.of(server.name))
        if self._group is not None:
            self._tasks[server.name] = self._group.create_task(backend.run())

    def _follow(self, backend: Backend, processes: tuple[ProcessStatus, ...]) -> None:
        """Of servers that are not its own, the supervisor tells only those that `--only` omits."""
        if processes or backend.server.managed_by == "supervisor":
            backend.follow(processes)

    def _remove(self, name: str) -> None:
        del self._backends[name]
        self._offers.pop(name, None)
        self._quarantined.pop(name, None)
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()

    # The catalog follows.

    def _changed(self) -> None:
        """Rebuild soon: what changes together becomes one new catalog."""
        if self._rebuild_timer is None:
            loop = asyncio.get_running_loop()
            self._rebuild_timer = loop.call_later(_DEBOUNCE, self._rebuild)

    def _rebuild(self) -> None:
        self._rebuild_timer = None
        for name, backend in self._backends.items():
            if backend.offer is not None:
                variants = backend.variants.offers
                self._offers[name] = self._vetted(backend.server, backend.offer, variants)
        self.withheld = {
            exposed_tool(server, tool): ToolName(name, tool)
            for name, tools in self._quarantined.items()
            if (server := self.config.servers.get(name)) is not None
            for tool in tools
        }
        version = self.catalog.version + 1
        self._take_over(build(version, self.config.servers, self._offers, self._available()))

    def _take_over(self, catalog: Catalog) -> None:
        """Make it the one in force, where it says anything new."""
        _report(catalog.refused, self.catalog.refused)
        if several_sources(catalog.capabilities.values()):
            for backend in self.backends(catalog.unlisted):
                backend.want_templates()  # only with them it is known whose a link's URI is
        changed = (catalog.entries, catalog.about) != (self.catalog.entries, self.catalog.about)
        if changed:
            self.catalog = catalog
        self._settled.set()
        if changed:
            for watcher in list(self._watchers):
                watcher()

    def _vetted(
        self, server: ServerConfig, offer: Offer, variants: Mapping[Profile, Offer]
    ) -> Offer:
        """What may be shown of an offer: nothing that hides, and no tool that changed unseen."""
        known = self._cleaned.get(server.name)
        if known is None or known[0] is not offer or known[1] is not variants:
            self._store.save(server, offer)
            cleaned = _clean(server.name, merged(offer, variants))
            known = self._cleaned[server.name] = (offer, variants, cleaned)
        cleaned = known[2]
        reviewed = self._pins.review(server, cleaned.tools)
        self._quarantined[server.name] = reviewed.quarantined
        return replace(cleaned, tools=reviewed.kept)

    def _available(self) -> set[str]:
        """Servers whose tools are on offer: those connected, and for a while those that were.

        A restart should be a hiccup, no change of anybody's list.
        """
        now = asyncio.get_running_loop().time()
        grace = self.config.gateway.first_list_wait
        available = set()
        for name, backend in self._backends.items():
            left = backend.down_since + grace - now
            if backend.connected or (left > 0 and not backend.gave_up):
                available.add(name)
            if not backend.connected and left > 0:
                asyncio.get_running_loop().call_later(left + 0.01, self._changed)
        return available

    def expecting(self, allow: Allowlist) -> bool:
        """Whether a server in `allow` that was never seen may still come; one that has listed what
        it offers comes with the next catalog."""
        return any(
            name not in self._offers
            and (backend.offer is not None or not backend.tried)
            and allow.reaches(name)
            for name, backend in self._backends.items()
        )

    def offers(self) -> dict[str, Offer]:
        """What is known of each server."""
        return dict(self._offers)


def _report(refused: Mapping[ToolName, ToolName], known: Collection[ToolName]) -> None:
    """Say which names are newly refused, and what to do."""
    for name, holder in refused.items():
        if name not in known:
            logger.error(
                "%s is not offered: its exposed name belongs to %s; give one of the servers "
                "another `prefix`, or rename or deny the tool in the config",
                name,
                holder,
            )


def _clean(server: str, offer: Offer) -> Offer:
    """An offer without characters that hide something from whoever reads it."""
    cleaned = {kind: clean_all(offer.of(kind)) for kind in KINDS}
    for name, reason in (refused for each in cleaned.values() for refused in each.refused):
        logger.warning("%s: %s is not offered: %s", server, name, reason)
    return replace(
        offer,
        tools=cleaned["tool"].kept,
        prompts=cleaned["prompt"].kept,
        resources=cleaned["resource"].kept,
        templates=None if offer.templates is None else cleaned["template"].kept,
        instructions=None if offer.instructions is None else clean(offer.instructions),
    )
