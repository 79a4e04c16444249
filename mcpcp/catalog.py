"""The catalog: what all servers offer at one moment, and each agent's view of it. Pure.

A catalog is immutable; when a server changes, a new one is built and swapped in whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import orjson

from mcpcp.config import ServerConfig, ToolRules
from mcpcp.names import ToolName, expose
from mcpcp.policy import Allowlist, matches

Definition = dict[str, Any]

_VIEWS_KEPT = 256


@dataclass(frozen=True, slots=True)
class Offer:
    """What one server said about itself."""

    tools: tuple[Definition, ...] = ()
    instructions: str | None = None

    def to_wire(self) -> dict[str, Any]:
        """As JSON-able values."""
        return {"tools": list(self.tools), "instructions": self.instructions}

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> Offer:
        """The reverse of `to_wire`."""
        return cls(tuple(data["tools"]), data.get("instructions"))


@dataclass(frozen=True, slots=True)
class Entry:
    """One tool on offer; `definition` is what clients see, under its exposed name."""

    name: ToolName
    exposed: str
    definition: Definition

    @property
    def repeatable(self) -> bool:
        """Whether the tool says that a second run does no harm."""
        hints = self.definition.get("annotations") or {}
        return bool(hints.get("idempotentHint") or hints.get("readOnlyHint"))


@dataclass(frozen=True)
class View:
    """The part of a catalog that one allowlist grants."""

    entries: Mapping[str, Entry]
    instructions: str | None

    @cached_property
    def tools(self) -> tuple[Definition, ...]:
        """The definitions, in the config's order of servers."""
        return tuple(entry.definition for entry in self.entries.values())

    @cached_property
    def tools_json(self) -> orjson.Fragment:
        """The definitions as one piece of JSON, encoded once."""
        return orjson.Fragment(orjson.dumps(self.tools))


@dataclass(frozen=True)
class Catalog:
    """Every tool on offer by exposed name; `refused` names tools whose exposed name was taken."""

    version: int = 0
    entries: Mapping[str, Entry] = field(default_factory=dict)
    refused: Mapping[ToolName, ToolName] = field(default_factory=dict)
    instructions: Mapping[str, str] = field(default_factory=dict)
    _views: dict[Allowlist, View] = field(default_factory=dict, repr=False, compare=False)

    def view(self, allow: Allowlist) -> View:
        """What `allow` grants of this catalog; equal allowlists share one view."""
        found = self._views.get(allow)
        if found is None:
            if len(self._views) >= _VIEWS_KEPT:
                self._views.clear()
            found = self._views[allow] = self._make_view(allow)
        return found

    def _make_view(self, allow: Allowlist) -> View:
        entries = {
            exposed: entry
            for exposed, entry in self.entries.items()
            if allow.permits(entry.name.server, entry.name.tool)
        }
        parts = [f"## {s}\n{text}" for s, text in self.instructions.items() if allow.reaches(s)]
        return View(entries, "\n\n".join(parts) or None)


def build(
    version: int,
    servers: Mapping[str, ServerConfig],
    offers: Mapping[str, Offer],
    available: Collection[str],
) -> Catalog:
    """The catalog of what `available` servers offer.

    Names are claimed in the config's order, by servers that are away as well: so a name means the
    same tool whoever happens to be up, and the second to claim one stays refused.
    """
    claimed: dict[str, ToolName] = {}
    entries: dict[str, Entry] = {}
    refused: dict[ToolName, ToolName] = {}
    for name, server in servers.items():
        for entry in _offered(server, offers.get(name)):
            holder = claimed.setdefault(entry.exposed, entry.name)
            if holder != entry.name:
                refused[entry.name] = holder
            elif name in available:
                entries[entry.exposed] = entry
    instructions = {
        name: offer.instructions
        for name in servers
        if name in available and (offer := offers.get(name)) and offer.instructions
    }
    return Catalog(version, entries, refused, instructions)


def _offered(server: ServerConfig, offer: Offer | None) -> Iterator[Entry]:
    for definition in offer.tools if offer else ():
        tool = definition["name"]
        if _permitted(server.tools, tool):
            exposed = expose(server.prefix, server.tools.rename.get(tool, tool))
            yield Entry(ToolName(server.name, tool), exposed, {**definition, "name": exposed})


def _permitted(rules: ToolRules, tool: str) -> bool:
    allowed = any(matches(pattern, tool) for pattern in rules.allow)
    return allowed and not any(matches(pattern, tool) for pattern in rules.deny)
