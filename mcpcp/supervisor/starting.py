"""What has to be right before a fleet starts: config, names, keys."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from mcpcp import keyring
from mcpcp.config import Config, load
from mcpcp.errors import FleetError
from mcpcp.supervisor.options import FleetOptions, Ui


@dataclass(frozen=True, slots=True)
class Prepared:
    """A fleet that can start, and whether its signing keys were made just now."""

    options: FleetOptions
    config: Config
    new_key: str | None


def prepare(
    path: Path,
    *,
    only: tuple[str, ...] | None = None,
    ui: Ui = "none",
    background: bool = False,
) -> Prepared:
    """Check the config and make the keys of a first run; raises ConfigError or FleetError."""
    config = load(path)
    for name in only or ():
        if name not in config.servers:
            raise FleetError(f"{config.path}: {unknown(name, config.servers)}")
    new_key = keyring.ensure(config.keys_dir)
    idle_exit = config.gateway.idle_exit if background else None
    return Prepared(FleetOptions(path, only, ui, background, idle_exit), config, new_key)


def unknown(name: str, known: Iterable[str]) -> str:
    """That there is no server `name`, and what there is, the nearest first."""
    names = list(known)
    near = get_close_matches(name, names, n=1)
    if near:
        return f'there is no server "{name}"; did you mean "{near[0]}"?'
    return f'there is no server "{name}"; there are {", ".join(names) or "none"}'
