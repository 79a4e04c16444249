"""The catalog: what all servers offer at one moment, and each agent's view of it. Pure.

A catalog is immutable; when a server changes, a new one is built and swapped in whole. Tools and
prompts are known by exposed name, resources and templates by exposed URI.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Final, Literal, get_args

import orjson

from mcpcp.config import ServerConfig, ToolRules
from mcpcp.names import ToolName, expose
from mcpcp.policy import Allowlist, matches
from mcpcp.profiles import BASE, Profile
from mcpcp.protocol import UPDATED
from mcpcp.search import Index
from mcpcp.uris import Rewriter, exposed_by, fits, overlap

Definition = dict[str, Any]
Shown = Mapping[Profile, frozenset[tuple["Kind", str]]]
"""What a server shows to clients of which profile, by kind and the server's own name."""
Kind = Literal["tool", "prompt", "resource", "template"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
VARYING: Final[tuple[Kind, ...]] = ("tool", "prompt", "resource")
"""What a server may show to one client and not to another."""

IDENTITY: Final[Mapping[Kind, str]] = {
    "tool": "name",
    "prompt": "name",
    "resource": "uri",
    "template": "uriTemplate",
}
"""The member that a definition is known by."""
LONGEST_INSTRUCTIONS: Final = 4000
"""Characters of each server's instructions that are passed on."""
_VIEWS_KEPT: Final = 256


@dataclass(frozen=True, slots=True)
class Offer:
    """What one server said about itself."""

    tools: tuple[Definition, ...] = ()
    prompts: tuple[Definition, ...] = ()
    resources: tuple[Definition, ...] = ()
    templates: tuple[Definition, ...] | None = None
    """None while nobody has asked for them."""
    instructions: str | None = None
    capabilities: Definition = field(default_factory=dict)
    modern: bool = False
    announced: Mapping[str, int] = field(default_factory=dict)
    """How often the server had said of which list that it changed, when it was listed."""
    shown: Shown = field(default_factory=dict)
    """Where that depends on the client; empty while all clients are shown everything."""

    def of(self, kind: Kind) -> tuple[Definition, ...]:
        """The definitions of one kind."""
        found: tuple[Definition, ...] | None = getattr(self, f"{kind}s")
        return found or ()

    def names(self) -> frozenset[tuple[Kind, str]]:
        """What of it may depend on the client, by kind and name; templates do not."""
        return frozenset((kind, d[IDENTITY[kind]]) for kind in VARYING for d in self.of(kind))

    def to_wire(self) -> dict[str, Any]:
        """As JSON-able values."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _OF_NOW}

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> Offer:
        """The reverse of `to_wire`."""
        return cls(
            tools=tuple(data["tools"]),
            prompts=tuple(data["prompts"]),
            resources=tuple(data["resources"]),
            templates=None if data["templates"] is None else tuple(data["templates"]),
            instructions=data["instructions"],
            capabilities=data["capabilities"],
            modern=data["modern"],
        )

    def __str__(self) -> str:
        counts = ((kind, len(self.of(kind))) for kind in KINDS)
        return ", ".join(f"{n} {kind}s" for kind, n in counts if n) or "nothing on offer"


_OF_NOW: Final = ("announced", "shown")


def merged(base: Offer, variants: Mapping[Profile, Offer]) -> Offer:
    """One offer of all that a server shows to anybody; `base` is what it shows to us.

    A name means one definition, that of `base` where it has one: pins are by name.
    """
    if all(variant.names() == base.names() for variant in variants.values()):
        return base
    found = {kind: {d[IDENTITY[kind]]: d for d in base.of(kind)} for kind in VARYING}
    for variant in variants.values():
        for kind in VARYING:
            for definition in variant.of(kind):
                found[kind].setdefault(definition[IDENTITY[kind]], definition)
    return replace(
        base,
        tools=tuple(found["tool"].values()),
        prompts=tuple(found["prompt"].values()),
        resources=tuple(found["resource"].values()),
        shown={BASE: base.names(), **{p: variant.names() for p, variant in variants.items()}},
    )


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing on offer; `definition` is what clients see, under its exposed name or URI."""

    kind: Kind
    name: ToolName
    exposed: str
    definition: Definition

    @property
    def repeatable(self) -> bool:
        """Whether a second run does no harm: a tool that says so, and whatever is only read."""
        if self.kind != "tool":
            return True
        hints = self.definition.get("annotations")
        return isinstance(hints, dict) and bool(
            hints.get("idempotentHint") or hints.get("readOnlyHint")
        )


Entries = Mapping[str, Entry]


@dataclass(frozen=True)
class Listing:
    """The definitions of one kind in a view, in the config's order of servers."""

    entries: Entries

    @cached_property
    def definitions(self) -> tuple[Definition, ...]:
        """Each as clients see it."""
        return tuple(entry.definition for entry in self.entries.values())

    @cached_property
    def json(self) -> orjson.Fragment:
        """The definitions as one piece of JSON, encoded once."""
        return orjson.Fragment(orjson.dumps(self.definitions))


@dataclass(frozen=True)
class View:
    """The part of a catalog that one allowlist grants."""

    listings: Mapping[Kind, Listing]
    servers: tuple[str, ...]
    instructions: str | None
    capabilities: Definition
    announced: Mapping[str, Mapping[str, int]]
    """How often each server has said of which list that it changed."""
    unlisted: frozenset[str] = frozenset()
    """Servers whose templates nobody has asked for yet."""

    @cached_property
    def index(self) -> Index:
        """For finding tools by words, made once."""
        return Index.of(self.listings["tool"].definitions)

    def find(self, kind: Kind, exposed: str) -> Entry | None:
        """What is exposed under that name or URI."""
        return self.listings[kind].entries.get(exposed)

    def find_uri(self, uri: str) -> Entry | None:
        """The resource with that URI, or the template that it may have come from."""
        found = self.find("resource", uri)
        if found is not None:
            return found
        templates = self.listings["template"].entries
        named = exposed_by(uri)
        if named is not None:
            server, own = named
            of_it = (e for e in templates.values() if e.name.server == server)
            if any(fits(entry.name.tool, own) for entry in of_it):
                return Entry("resource", ToolName(server, own), uri, {"uri": uri})
        return next((e for pattern, e in templates.items() if fits(pattern, uri)), None)


@dataclass(frozen=True)
class Catalog:
    """Everything on offer; `refused` names what can't be, as its exposed name was taken."""

    version: int = 0
    entries: Mapping[Kind, Entries] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    refused: Mapping[ToolName, ToolName] = field(default_factory=dict)
    instructions: Mapping[str, str] = field(default_factory=dict)
    capabilities: Mapping[str, Definition] = field(default_factory=dict)
    announced: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    rewriters: Mapping[str, Rewriter] = field(default_factory=dict)
    shown: Mapping[str, Shown] = field(default_factory=dict)
    """Of those servers that do not show the same to all clients."""
    unlisted: frozenset[str] = frozenset()
    """Servers whose templates nobody has asked for yet."""
    _views: dict[tuple[Allowlist, Profile], View] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def about(self) -> tuple[object, ...]:
        """What servers say of themselves beside their lists."""
        return self.instructions, self.capabilities, self.announced, self.shown, self.unlisted

    @cached_property
    def profiles(self) -> frozenset[Profile]:
        """Those of clients that are shown something else than others."""
        return frozenset(profile for shown in self.shown.values() for profile in shown)

    def view(self, allow: Allowlist, profile: Profile = BASE) -> View:
        """What `allow` grants a client of `profile`; equal allowlists share one view."""
        key = (allow, profile if profile in self.profiles else BASE)
        found = self._views.get(key)
        if found is None:
            if len(self._views) >= _VIEWS_KEPT:
                self._views.clear()
            found = self._views[key] = self._make_view(*key)
        return found

    def rewritten(self, server: str, message: Definition) -> Definition:
        """A server's notification, with its resource's URI as clients know it."""
        params = message.get("params")
        rewriter = self.rewriters.get(server)
        if rewriter is None or not isinstance(params, dict) or "uri" not in params:
            return message
        return {**message, "params": {**params, "uri": rewriter.uri(str(params["uri"]))}}

    def may_hear(self, allow: Allowlist, server: str, message: Definition) -> bool:
        """Whether a server's notification names nothing that `allow` does not grant."""
        if message["method"] != UPDATED:
            return True
        uri = str((message.get("params") or {}).get("uri"))
        return allow.permits_other(server, "resource", uri) or any(
            entry.name.server == server and granted(allow, entry) and fits(entry.name.tool, uri)
            for entry in self.entries["template"].values()
        )

    def shows(self, profile: Profile, entry: Entry) -> bool:
        """Whether the entry's server shows it to clients of `profile`."""
        shown = self.shown.get(entry.name.server)
        if shown is None or entry.kind == "template":
            return True
        return (entry.kind, entry.name.tool) in shown.get(profile, shown[BASE])

    def _make_view(self, allow: Allowlist, profile: Profile) -> View:
        listings = {
            kind: Listing(
                {x: e for x, e in entries.items() if granted(allow, e) and self.shows(profile, e)}
            )
            for kind, entries in self.entries.items()
        }
        servers = tuple(s for s in self.capabilities if allow.reaches(s))
        parts = [f"## {s}\n{text}" for s, text in self.instructions.items() if s in servers]
        capabilities = _merge(self.capabilities[s] for s in servers)
        # Whoever may not see all of a server does not hear of changes that it may not see.
        whole = (s for s in servers if s in self.announced and allow.grants_all(s))
        announced = {s: dict(self.announced[s]) for s in whole}
        instructions = "\n\n".join(parts) or None
        unlisted = self.unlisted.intersection(servers)
        return View(listings, servers, instructions, capabilities, announced, unlisted)


def granted(allow: Allowlist, entry: Entry) -> bool:
    """Whether `allow` grants that entry."""
    if entry.kind == "tool":
        return allow.permits(entry.name.server, entry.name.tool)
    kind = "prompt" if entry.kind == "prompt" else "resource"
    return allow.permits_other(entry.name.server, kind, entry.name.tool)


def _merge(capabilities: Iterator[Definition]) -> Definition:
    """The union; where servers differ inside one capability, what any of them can."""
    merged: Definition = {}
    for each in capabilities:
        for name, value in each.items():
            held = merged.get(name)
            both = isinstance(held, dict) and isinstance(value, dict)
            merged[name] = {**held, **value} if both and held is not None else value
    return merged


def build(
    version: int,
    servers: Mapping[str, ServerConfig],
    offers: Mapping[str, Offer],
    available: Collection[str],
) -> Catalog:
    """The catalog of what `available` servers offer.

    Names are claimed in the config's order, by servers that are away as well: so a name means the
    same thing whoever happens to be up. The second tool or prompt to claim one stays refused; the
    second resource gets another URI.
    """
    entries: dict[Kind, dict[str, Entry]] = {kind: {} for kind in KINDS}
    claimed: dict[tuple[Kind, str], ToolName] = {}
    refused: dict[ToolName, ToolName] = {}
    rewriters: dict[str, Rewriter] = {}
    owners = _owners(servers, offers)
    templates: list[str] = []
    company = several_sources(o.capabilities for o in offers.values())
    for name, server in servers.items():
        offer = offers.get(name, _NOTHING)
        rewriters[name] = rewriter = _rewriter(name, offer, templates, owners, company=company)
        templates += (d["uriTemplate"] for d in offer.of("template"))
        for entry in _offered(server, offer, rewriter):
            holder = claimed.setdefault((entry.kind, entry.exposed), entry.name)
            if holder != entry.name:
                refused[entry.name] = holder
            elif name in available:
                entries[entry.kind][entry.exposed] = entry
    there = {name: offers[name] for name in servers if name in available and name in offers}
    return Catalog(
        version,
        entries,
        refused,
        {s: o.instructions[:LONGEST_INSTRUCTIONS] for s, o in there.items() if o.instructions},
        {s: o.capabilities for s, o in there.items()},
        {s: o.announced for s, o in there.items() if o.announced},
        {s: r for s, r in rewriters.items() if r},
        {s: o.shown for s, o in there.items() if o.shown},
        frozenset(
            s for s, o in there.items() if o.templates is None and "resources" in o.capabilities
        ),
    )


_NOTHING: Final = Offer()


def several_sources(capabilities: Iterable[Collection[str]]) -> bool:
    """Whether more than one server has resources, by what each of them can."""
    return sum("resources" in of_one for of_one in capabilities) > 1


def _owners(servers: Mapping[str, ServerConfig], offers: Mapping[str, Offer]) -> dict[str, str]:
    """The first server to list each URI."""
    owners: dict[str, str] = {}
    for name in servers:
        for definition in offers.get(name, _NOTHING).resources:
            owners.setdefault(definition["uri"], name)
    return owners


def _rewriter(
    name: str,
    offer: Offer,
    claimed: Collection[str],
    owners: Mapping[str, str],
    *,
    company: bool,
) -> Rewriter:
    """For those URIs of the server that belong to another; `claimed` are others' templates."""
    templates = [d["uriTemplate"] for d in offer.of("template")]
    shared = [t for t in templates if any(overlap(t, other) for other in claimed)]
    uris = [d["uri"] for d in offer.resources]
    company = company and offer.templates is not None and "resources" in offer.capabilities
    return Rewriter(name, uris, templates, shared, owners, company=company)


def exposed_tool(server: ServerConfig, tool: str) -> str:
    """The name under which clients know a server's tool."""
    return expose(server.prefix, server.tools.rename.get(tool, tool))


def _offered(server: ServerConfig, offer: Offer, rewriter: Rewriter) -> Iterator[Entry]:
    for definition in offer.tools:
        tool = definition["name"]
        if _permitted(server.tools, tool):
            worded = _worded(server, tool, definition)
            yield _entry("tool", server.name, tool, worded, "name")
    for definition in offer.prompts:
        exposed = expose(server.prefix, definition["name"])
        yield _entry(
            "prompt", server.name, definition["name"], {**definition, "name": exposed}, "name"
        )
    for definition in offer.resources:
        uri = rewriter.uri(definition["uri"])
        yield _entry("resource", server.name, definition["uri"], {**definition, "uri": uri}, "uri")
    for definition in offer.of("template"):
        pattern = definition["uriTemplate"]
        changed = {**definition, "uriTemplate": rewriter.template(pattern)}
        yield _entry("template", server.name, pattern, changed, "uriTemplate")


def _worded(server: ServerConfig, tool: str, definition: Definition) -> Definition:
    """A tool's definition with the name and the description that the config gives it."""
    worded = {**definition, "name": exposed_tool(server, tool)}
    description = server.tools.describe.get(tool)
    return worded if description is None else {**worded, "description": description}


def _entry(kind: Kind, server: str, name: str, definition: Definition, identity: str) -> Entry:
    return Entry(kind, ToolName(server, name), definition[identity], definition)


def _permitted(rules: ToolRules, tool: str) -> bool:
    allowed = any(matches(pattern, tool) for pattern in rules.allow)
    return allowed and not any(matches(pattern, tool) for pattern in rules.deny)
