"""What a person approved, and what waits for it: two files that are shared with `mcpcp packages`.

`approved.json` is written by `mcpcp packages approve` and read here; `waiting.json` is written here
and read there. Neither side writes the other's file.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from servers.packages.disk import remove
from servers.packages.errors import NotAPackage
from servers.packages.judgement import Verdict
from servers.packages.names import Requirement, requirement

logger = logging.getLogger(__name__)

_MOST_WAITING = 200
_MOST_AGENTS = 20
_LARGEST = 1 << 20


class Approvals:
    """The two files in `folder`; what can't be read approves nothing."""

    def __init__(self, folder: Path) -> None:
        self._approved = folder / "approved.json"
        self._waiting = folder / "waiting.json"

    def approved(self) -> frozenset[Requirement]:
        """As it is now: an approval counts from the next call on."""
        found = set()
        for entry in _entries(self._approved, "approved"):
            try:
                found.add(requirement(str(entry.get("package"))))
            except NotAPackage as e:
                logger.warning("an approval can't be read", extra={"reason": str(e)})
        return frozenset(found)

    def ask(self, verdicts: Iterable[Verdict], agent: str) -> None:
        """Put packages on the list that a person looks through, the latest last."""
        waiting = {str(e.get("package")): e for e in _entries(self._waiting, "waiting")}
        for verdict in verdicts:
            package = str(verdict.package)
            before = waiting.pop(package, {}).get("agents", [])
            agents = [a for a in before if isinstance(a, str) and a != agent]
            waiting[package] = {
                "package": package,
                "reason": verdict.reason,
                "agents": [*agents, agent][-_MOST_AGENTS:],
                "asked": int(time.time()),
            }
        approved = {str(package) for package in self.approved()}
        kept = [
            e
            for p, e in waiting.items()
            if p not in approved and p.partition("==")[0] not in approved
        ]
        _replace(self._waiting, {"waiting": kept[-_MOST_WAITING:]})


def _entries(path: Path, key: str) -> list[dict[str, Any]]:
    try:
        with path.open("rb") as file:
            entries = json.loads(file.read(_LARGEST))[key]
        return [entry for entry in entries if isinstance(entry, dict)]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as e:
        logger.warning(
            "a file of approvals can't be read", extra={"file": str(path), "why": str(e)}
        )
        return []


def _replace(path: Path, content: object) -> None:
    """Atomically; a list that can't be written is logged: it only saves a person some typing."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
        os.replace(draft, path)  # noqa: PTH105 - atomic on every system
    except OSError as e:
        remove(draft)
        logger.warning("it can't be noted what waits", extra={"file": str(path), "why": str(e)})
