"""Puts the parts of `packages` together, as the environment says.

Above: servers/sandbox.py. On systems without bubblewrap every installation is refused, with the way
to get it.
"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from servers.packages.approvals import Approvals
from servers.packages.errors import NoInstaller, NotAPackage
from servers.packages.judgement import STRICTNESSES, Rules, blocklist, shipped_blocklist
from servers.packages.lock import Lock, Target
from servers.packages.names import Requirement
from servers.packages.packages import FindTarget, Packages, Settings
from servers.sandboxing.call import Call
from servers.sandboxing.outcome import MIB
from servers.sandboxing.sandbox import Sandbox

_ASK = "import platform, sys\n(sys.version_info[:2], platform.machine(), platform.libc_ver())"
_LINUX_ONLY = (
    "packages can be installed on Linux only, where bubblewrap holds the installer in; elsewhere,"
    " build an image that has them and name it in SANDBOX_IMAGE"
)
_GLIBC = (17, 28, *range(31, 41))
"""The minor versions of glibc 2 by which uv knows platforms."""


@dataclass(frozen=True, slots=True)
class Places:
    """Folders: `data` is shared with `mcpcp packages`, `cache` holds what was installed."""

    data: Path
    cache: Path


def places(setting: Callable[[str, str], str]) -> Places:
    """Where the fleet keeps its data, and where installations are kept."""
    data = Path(setting("MCPCP_DATA_DIR", "data")) / "packages"
    return Places(data.absolute(), Path(setting("SANDBOX_PACKAGES_DIR", _cache())).absolute())


def _cache() -> str:
    """A folder that a sandbox, which is another user where we are root, can be shown a part of."""
    if sys.platform == "linux" and os.geteuid() == 0:
        return "/var/cache/mcpcp/packages"
    from platformdirs import user_cache_path

    return str(user_cache_path("mcpcp") / "packages")


def rules(setting: Callable[[str, str], str]) -> Rules:
    """What the operator says; raises SystemExit for what can't be meant."""
    approve = setting("SANDBOX_PACKAGES_APPROVE", "suspicious")
    if approve not in STRICTNESSES:
        known = " or ".join(STRICTNESSES)
        raise SystemExit(f"SANDBOX_PACKAGES_APPROVE is {known}, not {approve!r}")
    try:
        blocked = blocklist(setting("SANDBOX_PACKAGES_BLOCK", ""))
    except NotAPackage as e:
        raise SystemExit(f"SANDBOX_PACKAGES_BLOCK: {e}") from None
    return Rules(shipped_blocklist() | blocked, approve)


def make(setting: Callable[[str, str], str], sandbox: Sandbox) -> tuple[Packages, Prepare]:
    """The door, and what has to be done once before it is used; raises SystemExit."""
    where = places(setting)
    approvals = Approvals(where.data)
    own = Settings(rules(setting), where.data / "agents")
    target = target_of(sandbox)
    if sys.platform != "linux":
        return Packages(own, approvals, _Nothing(), _Nothing(), target), _nothing
    from servers.packages.store import Store
    from servers.packages.uv import PYPI, Bounds, Index, Uv

    usual = Bounds()
    try:
        hosts = setting("SANDBOX_INDEX_HOSTS", "").replace(",", " ").lower().split()
        index = Index.of(setting("SANDBOX_INDEX_URL", PYPI), hosts)
        bounds = Bounds(
            timeout=float(setting("SANDBOX_INSTALL_TIMEOUT", str(usual.timeout))),
            download=_megabytes(setting, "SANDBOX_INSTALL_DOWNLOAD_MB", usual.download),
            disk=_megabytes(setting, "SANDBOX_INSTALL_DISK_MB", usual.disk),
        )
        most = _megabytes(setting, "SANDBOX_PACKAGES_DISK_MB", 4096 * MIB)
    except ValueError as e:
        raise SystemExit(f"a setting of the package installer is wrong: {e}") from None
    uv = Uv(index, bounds)
    store = Store(where.cache, uv.install, most)
    return Packages(own, approvals, uv, store, target), store.prepare


Prepare = Callable[[], None]
"""Blocks for a moment; raises OSError."""


def _megabytes(setting: Callable[[str, str], str], name: str, usual: int) -> int:
    return int(setting(name, str(usual // MIB))) * MIB


def _nothing() -> None:
    """There is nothing to prepare."""


class _Nothing:
    """In the installer's place where there can be none."""

    async def resolve(self, wanted: Iterable[Requirement], target: Target) -> Lock:
        raise NoInstaller(_LINUX_ONLY)

    def lease(self, lock: Lock) -> AbstractAsyncContextManager[Path]:
        raise NoInstaller(_LINUX_ONLY)


def target_of(sandbox: Sandbox) -> FindTarget:
    """Asks the sandbox itself what it is, since packages are for the Python in there; once."""
    found: list[Target] = []

    async def find() -> Target:
        if not found:
            outcome = await sandbox.run(Call(_ASK))
            if outcome.status != "ok" or outcome.result is None:
                raise NoInstaller(
                    outcome.stderr or f"the sandbox gives no answer: {outcome.status}"
                )
            found.append(described(outcome.result))
        return found[0]

    return find


def described(answer: str) -> Target:
    """The target that `_ASK` describes; raises NoInstaller for one that packages are not made for."""
    try:
        (major, minor), machine, (libc, version) = ast.literal_eval(answer)
        if libc != "glibc":
            return Target(f"{major}.{minor}", f"{machine}-unknown-linux-musl")
        known = max(m for m in _GLIBC if m <= int(version.split(".")[1]))
        return Target(f"{major}.{minor}", f"{machine}-manylinux_2_{known}")
    except (ValueError, TypeError, SyntaxError, IndexError) as e:
        raise NoInstaller(f"the sandbox's Python can't be told: {answer[:200]}") from e
