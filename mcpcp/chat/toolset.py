"""An agent's tools as a model is shown them, and the way back from the names that it uses; pure."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mcpcp.chat.schemas import simplified

LONGEST_NAME: Final = 64
LONGEST_DESCRIPTION: Final = 1024
MOST_TOOLS: Final = 128
"""What the common providers accept in one request."""
_SUGGESTED: Final = 20
_FOREIGN: Final = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True, slots=True)
class Toolset:
    """`functions` in OpenAI's form, and the gateway's name of each by the model's."""

    functions: tuple[dict[str, Any], ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    left_out: int = 0

    @classmethod
    def of(cls, definitions: Iterable[Mapping[str, Any]]) -> Toolset:
        """From what `tools/list` answers; more than MOST_TOOLS are left out."""
        functions: list[dict[str, Any]] = []
        names: dict[str, str] = {}
        left_out = 0
        for definition in definitions:
            own = str(definition.get("name", ""))
            shown = model_name(own)
            if not own or shown in names or len(functions) >= MOST_TOOLS:
                left_out += 1
                continue
            names[shown] = own
            functions.append(_function(shown, definition))
        return cls(tuple(functions), names, left_out)

    def find(self, name: str) -> str | None:
        """The gateway's name of a tool that the model named; either of both names will do."""
        return self.names.get(name) or self.names.get(model_name(name))

    def unknown(self, name: str) -> str:
        """What a model is told that named a tool which is not there."""
        near = difflib.get_close_matches(name[:200], self.names, n=_SUGGESTED, cutoff=0.3)
        known = ", ".join(near or list(self.names)[:_SUGGESTED]) or "none"
        return f"There is no tool {name[:200]!r}. Tools that there are: {known}"


def model_name(name: str) -> str:
    """A name that every provider accepts: where it had to be changed, it ends in a stable hash."""
    plain = _FOREIGN.sub("_", name)
    if plain == name and len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{plain[: LONGEST_NAME - 9]}_{digest}"


def _function(name: str, definition: Mapping[str, Any]) -> dict[str, Any]:
    description = str(definition.get("description") or definition.get("title") or "")
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description[:LONGEST_DESCRIPTION],
            "parameters": simplified(definition.get("inputSchema")),
        },
    }
