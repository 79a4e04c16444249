"""Where packages come from, and what an installation may use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from servers.sandboxing.outcome import MIB

PYPI = "https://pypi.org/simple"
_PYPI_FILES = "files.pythonhosted.org"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an installation may use: seconds, bytes to fetch, bytes and files on disk, packages."""

    timeout: float = 300.0
    download: int = 400 * MIB
    disk: int = 1024 * MIB
    files: int = 60_000
    packages: int = 150


@dataclass(frozen=True, slots=True)
class Index:
    """Where packages come from; `hosts` serve its files, as `host` or `host:port`."""

    url: str = PYPI
    hosts: tuple[str, ...] = (_PYPI_FILES,)

    @classmethod
    def of(cls, url: str, hosts: Iterable[str]) -> Index:
        """The index at `url`; its own host and, for PyPI, that of its files need no naming.

        Raises ValueError where that is no address.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no address of a package index")
        usual = [_PYPI_FILES] if parts.hostname == "pypi.org" else []
        own = parts.netloc.rpartition("@")[2].lower()
        return cls(url, tuple(dict.fromkeys([own, *usual, *hosts])))

    def reachable(self) -> frozenset[tuple[str, int]]:
        """What the proxy lets through: a host without a port means that of the index's scheme."""
        usual = 443 if urlsplit(self.url).scheme == "https" else 80
        split = (urlsplit(f"//{host}") for host in self.hosts)
        return frozenset((parts.hostname or "", parts.port or usual) for parts in split)
