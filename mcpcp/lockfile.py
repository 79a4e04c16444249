"""The lock file that pins tools: what a definition's pin is made of, and how the file is written.

Above: `pins` decides and shares the file between processes. The text is sorted and indented, so
that it can be kept in version control, and read and merged by people.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mcpcp.errors import ConfigError

Definition = dict[str, Any]

LONGEST: Final = 65_536
"""Characters of a definition at most that the file holds; a longer one is pinned by hash alone."""

FORMAT: Final = 1
PINNED: Final = ("name", "title", "description", "inputSchema", "outputSchema", "annotations")
"""What a pin is made of: everything that tells a model or a person what the tool does."""


@dataclass(frozen=True, slots=True)
class Version:
    """One definition: its hash, and its text where that is short enough to be kept."""

    digest: str
    definition: Definition | None = None


@dataclass(frozen=True, slots=True)
class Pin:
    """A tool as it was first seen or approved, and as it is now where that differs."""

    approved: Version
    pending: Version | None = None


Pins = Mapping[str, Pin]
"""The pins of one server by the tool's own name."""


def version_of(definition: Definition) -> Version | None:
    """What is pinned of a definition, the same for every order of its keys.

    None for one that can't be written down: deeper than anyone reads.
    """
    parts = {key: definition[key] for key in PINNED if definition.get(key) is not None}
    try:
        text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):
        return None
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Version(digest, parts if len(text) <= LONGEST else None)


def to_text(servers: Mapping[str, Pins]) -> str:
    data = {
        "version": FORMAT,
        "servers": {
            server: {tool: _pin_to_data(pin) for tool, pin in pins.items()}
            for server, pins in servers.items()
            if pins
        },
    }
    return json.dumps(data, indent=2, sort_keys=True) + "\n"


def _pin_to_data(pin: Pin) -> dict[str, Any]:
    pending = {"pending": _version_to_data(pin.pending)} if pin.pending else {}
    return {**_version_to_data(pin.approved), **pending}


def _version_to_data(version: Version) -> dict[str, Any]:
    kept = {} if version.definition is None else {"definition": version.definition}
    return {"hash": version.digest, **kept}


def parse(text: str | bytes, name: str) -> Mapping[str, Pins]:
    """What a lock file's text pins; raises ConfigError, which calls it `name`, with the way out."""
    try:
        return _from_data(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"{name}: is not a good lock file ({type(error).__name__}: {error}); restore it, or"
            " delete it and restart, which trusts every tool as it is then"
        ) from None


def _from_data(data: Any) -> Mapping[str, Pins]:
    if data["version"] != FORMAT:
        raise ValueError(f"its version is {data['version']!r}, and {FORMAT} is known here")
    return {
        server: {tool: _pin_from_data(pin) for tool, pin in pins.items()}
        for server, pins in data["servers"].items()
    }


def _pin_from_data(data: Mapping[str, Any]) -> Pin:
    pending = data.get("pending")
    return Pin(_version_from_data(data), None if pending is None else _version_from_data(pending))


def _version_from_data(data: Mapping[str, Any]) -> Version:
    version = Version(data["hash"], data.get("definition"))
    if not isinstance(version.digest, str):
        raise ValueError(f"{version.digest!r} is no hash")  # noqa: TRY004 - a value from outside
    if version.definition is not None and version_of(version.definition) != version:
        raise ValueError(f"{version.digest[:12]} is not the hash of its definition")
    return version
