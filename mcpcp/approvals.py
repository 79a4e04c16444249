"""Packages that a person lets agents install: written here, read by the sandbox server.

The two share a folder in the config's data_dir: `approved.json` is ours, `waiting.json` is the
server's, which puts there what agents asked for and may not have yet.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mcpcp.errors import ConfigError
from mcpcp.files import locked_folder, write_atomically

_PACKAGE = re.compile(
    r"\A([a-z0-9](?:[a-z0-9._-]{0,98}[a-z0-9])?)(?:==([0-9][a-z0-9.!+]{0,98}))?\Z",
    re.ASCII | re.IGNORECASE,
)
_LARGEST = 1 << 20


@dataclass(frozen=True, slots=True)
class Approval:
    """`package` is a name, or `name==version`; `at` is seconds since 1970."""

    package: str
    at: int


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody asked for, why they did not get it, and when they asked last."""

    package: str
    reason: str
    agents: tuple[str, ...]
    asked: int


def normalized(package: str) -> str:
    """As the index compares names (PEP 503); raises ConfigError for what can't be a package."""
    match = _PACKAGE.match(package)
    if match is None:
        raise ConfigError(f"{package!r} is no package: write NAME or NAME==VERSION")
    name, version = match.groups()
    name = re.sub(r"[-_.]+", "-", name).lower()
    return f"{name}=={version}" if version else name


class Approvals:
    """The folder of one config."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def approved(self) -> tuple[Approval, ...]:
        """Sorted by name; raises ConfigError for a broken file, which approves nothing."""
        entries = _read(self._folder / "approved.json", "approved")
        found = (Approval(str(e["package"]), int(e.get("at", 0))) for e in entries)
        return tuple(sorted(found, key=lambda approval: approval.package))

    def waiting(self) -> tuple[Request, ...]:
        """What is not approved yet, the latest last; raises ConfigError."""
        approved = {approval.package for approval in self.approved()}
        entries = _read(self._folder / "waiting.json", "waiting")
        requests = (_request(e) for e in entries)
        return tuple(r for r in requests if not {r.package, _name(r.package)} & approved)

    def approve(self, packages: Iterable[str]) -> None:
        """From the next call on; raises ConfigError."""
        now = int(time.time())
        wanted = {p: Approval(p, now) for p in map(normalized, packages)}
        self._change(lambda before: {**wanted, **before})

    def revoke(self, packages: Iterable[str]) -> None:
        """Take approvals back; raises ConfigError for one that there is not."""
        wanted = {normalized(package) for package in packages}
        unknown = sorted(wanted - {approval.package for approval in self.approved()})
        if unknown:
            raise ConfigError(f"{unknown[0]} is not approved; see: mcpcp packages list")
        self._change(lambda before: {p: a for p, a in before.items() if p not in wanted})

    def _change(self, change: Callable[[dict[str, Approval]], dict[str, Approval]]) -> None:
        path = self._folder / "approved.json"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with locked_folder(self._folder):
                after = change({approval.package: approval for approval in self.approved()})
                entries = [asdict(after[package]) for package in sorted(after)]
                text = json.dumps({"approved": entries}, indent=2)
                write_atomically(path, text.encode() + b"\n", 0o644)
        except OSError as error:
            raise ConfigError(f"{path}: can't be written: {error}") from None


def _name(package: str) -> str:
    return package.partition("==")[0]


def _request(entry: dict[str, Any]) -> Request:
    agents = tuple(str(agent) for agent in entry.get("agents", ()))
    return Request(
        str(entry["package"]), str(entry.get("reason", "")), agents, int(entry.get("asked", 0))
    )


def _read(path: Path, key: str) -> list[dict[str, Any]]:
    try:
        with path.open("rb") as file:
            entries = json.loads(file.read(_LARGEST))[key]
        return [entry for entry in entries if isinstance(entry.get("package"), str)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: is damaged ({error}): repair it, or delete it") from None
