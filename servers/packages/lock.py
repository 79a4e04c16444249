"""A resolution: every package with the one wheel that will be fetched, by address and hash.

Read from what the resolver said (pylock.toml, PEP 751), which is data like any other: what is not
as it must be is refused. Written anew for the installation, so that what was judged is what comes.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

from servers.packages.errors import BadLock, NotAPackage
from servers.packages.names import Requirement, checked_version, normalized

_SHA256 = re.compile(r"\A[0-9a-f]{64}\Z", re.ASCII)
_URL = re.compile(r"\Ahttps?://[!-~]+\Z", re.ASCII)
_LONGEST_URL = 2000


@dataclass(frozen=True, slots=True)
class Target:
    """What packages are for: `python` as 3.11, `platform` as uv names it."""

    python: str
    platform: str


@dataclass(frozen=True, slots=True, order=True)
class Wheel:
    """One package of a lock."""

    name: str
    version: str
    url: str
    sha256: str

    @property
    def requirement(self) -> Requirement:
        """The package without its file."""
        return Requirement(self.name, self.version)


@dataclass(frozen=True, slots=True)
class Lock:
    """All packages of an environment, sorted."""

    target: Target
    wheels: tuple[Wheel, ...]

    @property
    def digest(self) -> str:
        """Names the environment: the same for the same files, wherever they lie."""
        files = [[w.name, w.version, w.sha256] for w in self.wheels]
        text = json.dumps([self.target.python, self.target.platform, files])
        return hashlib.sha256(text.encode()).hexdigest()[:40]

    def to_toml(self) -> str:
        """As the installer reads it."""
        lines = ['lock-version = "1.0"', 'created-by = "mcpcp"', ""]
        for wheel in self.wheels:
            lines += [
                "[[packages]]",
                f"name = {json.dumps(wheel.name)}",
                f"version = {json.dumps(wheel.version)}",
                f"wheels = [{{ url = {json.dumps(wheel.url)},"
                f" hashes = {{ sha256 = {json.dumps(wheel.sha256)} }} }}]",
                "",
            ]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """As `of_json` reads it."""
        return asdict(self)

    @classmethod
    def of_json(cls, found: Any) -> Lock:
        """What `to_json` wrote; raises BadLock."""
        try:
            wheels = tuple(Wheel(**wheel) for wheel in found["wheels"])
            return cls(Target(**found["target"]), wheels)
        except (TypeError, KeyError) as e:
            raise BadLock(f"it can't be read: {e}") from None


def parse(text: str, target: Target, hosts: Collection[str], most: int) -> Lock:
    """The lock that a pylock.toml describes.

    Raises BadLock for anything but wheels with a SHA-256 on `hosts` (as `host` or `host:port`), and
    for more than `most` packages.
    """
    try:
        packages = tomllib.loads(text).get("packages", [])
    except ValueError as e:
        raise BadLock(f"the resolver's answer can't be read: {e}") from None
    if not isinstance(packages, list) or len(packages) > most:
        raise BadLock(f"it needs more than {most} packages")
    wheels = tuple(sorted(_wheel(package, hosts) for package in packages))
    if len({wheel.name for wheel in wheels}) != len(wheels):
        raise BadLock("it names a package twice")
    return Lock(target, wheels)


def _wheel(package: Any, hosts: Collection[str]) -> Wheel:
    try:
        name = normalized(package["name"])
        version = checked_version(package["version"])
    except (TypeError, KeyError, NotAPackage) as e:
        raise BadLock(f"it needs a package that is not from the index: {e}") from None
    files = package.get("wheels")
    if not isinstance(files, list) or len(files) != 1 or not isinstance(files[0], dict):
        raise BadLock(f"{name}: there is not one wheel for it")
    url, sha256 = files[0].get("url"), (files[0].get("hashes") or {}).get("sha256")
    if not isinstance(sha256, str) or not _SHA256.match(sha256):
        raise BadLock(f"{name}: the index gives no SHA-256 for it")
    if not isinstance(url, str) or len(url) > _LONGEST_URL or not _URL.match(url):
        raise BadLock(f"{name}: the index gives no address for it")
    host = urlsplit(url).netloc.rpartition("@")[2]
    if host not in hosts:
        raise BadLock(
            f"{name}: its file lies on {host}, which is not among the index's hosts"
            " (SANDBOX_INDEX_HOSTS names further ones)"
        )
    return Wheel(name, version, url, sha256)
