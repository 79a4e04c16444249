"""Each server's last offer, kept on disk, so that a cold start never shows an empty list."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import orjson

from mcpcp.catalog import Offer
from mcpcp.config import ServerConfig
from mcpcp.files import write_atomically

logger = logging.getLogger(__name__)


class OfferStore:
    """One file a server, believed only while the server's entry in the config is the same."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, servers: Mapping[str, ServerConfig]) -> dict[str, Offer]:
        """What is known of `servers`; a file that is damaged or stale counts as none."""
        offers = {}
        for name, server in servers.items():
            try:
                data = orjson.loads(self._path(name).read_bytes())
                if data["entry"] == _fingerprint(server):
                    offers[name] = Offer.from_wire(data["offer"])
            except FileNotFoundError:
                continue
            except (OSError, ValueError, KeyError, TypeError) as error:
                logger.warning("the last offer of %s is not readable: %s", name, error)
        return offers

    def save(self, server: ServerConfig, offer: Offer) -> None:
        """Remember `offer`; a full disk costs the next cold start some time, nothing else."""
        data = orjson.dumps({"entry": _fingerprint(server), "offer": offer.to_wire()})
        path = self._path(server.name)
        try:
            if path.exists() and path.read_bytes() == data:
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data)
        except OSError as error:
            logger.warning("the offer of %s was not kept: %s", server.name, error)

    def _path(self, name: str) -> Path:
        return self._folder / f"{quote(name, safe='')}.json"


def _fingerprint(server: ServerConfig) -> str:
    """What makes a server the same one: how it is started or where it is."""
    parts = (server.transport, server.command, server.args, str(server.cwd), server.url)
    return hashlib.sha256(repr(parts).encode()).hexdigest()
