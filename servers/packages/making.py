"""Puts the parts of `packages` together, as variables that begin with SANDBOX_ say.

Above: servers/sandbox.py. On systems without bubblewrap every installation is refused, with the way
to get it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from servers.packages import disk
from servers.packages.approvals import Approvals
from servers.packages.errors import DiskRefuses, NoInstaller, NotAPackage
from servers.packages.judgement import STRICTNESSES, Rules, blocklist, shipped_blocklist
from servers.packages.lock import Lock, Target
from servers.packages.names import Requirement
from servers.packages.packages import Environments, Packages, Resolver, Settings
from servers.packages.source import PYPI, Bounds, Index
from servers.packages.target import target_of
from servers.sandboxing.outcome import MIB
from servers.sandboxing.sandbox import Sandbox
from servers.sandboxing.settings import BadSetting, data_folder, number
from servers.sandboxing.settings import Settings as SandboxSettings
from servers.serving import setting

if TYPE_CHECKING:
    from servers.packages.uv import Uv

logger = logging.getLogger(__name__)

_TRY_AGAIN_SECONDS = 5.0
_LINUX_ONLY = (
    "packages can be installed on Linux only, where bubblewrap holds the installer in; elsewhere,"
    " build an image that has them and name it in SANDBOX_IMAGE"
)


@dataclass(slots=True)
class Shop:
    """The door, and the sandbox that its code runs in.

    `prepare` is what must be done before either is used: it blocks for a moment and raises OSError.
    """

    packages: Packages
    sandbox: Sandbox
    prepare: Callable[[], None]
    _trouble: str | None = None

    @property
    def missing(self) -> str | None:
        """Why code can't be run now, and what to do; None when it can."""
        return self._trouble or self.sandbox.missing

    @asynccontextmanager
    async def ready(self) -> AsyncIterator[None]:
        """Both are of use while the context lasts, or as soon as the disk lets them."""
        async with anyio.create_task_group() as tasks:
            if not await self._prepared():
                tasks.start_soon(self._keep_preparing)
            try:
                async with self.sandbox.ready():
                    yield
            finally:
                tasks.cancel_scope.cancel()

    async def _keep_preparing(self) -> None:
        while not await self._prepared():  # noqa: ASYNC110 - nobody tells when there is room
            await anyio.sleep(_TRY_AGAIN_SECONDS)

    async def _prepared(self) -> bool:
        try:
            with disk.telling(disk.CACHE):
                await anyio.to_thread.run_sync(self.prepare)
        except DiskRefuses as e:
            logger.exception("the store of packages can't be prepared")
            self._trouble = str(e)
        else:
            self._trouble = None
        return self._trouble is None


def make(own: SandboxSettings) -> Shop:
    """As the environment says; raises BadSetting."""
    data = Path(setting("MCPCP_DATA_DIR", "data")).absolute() / "packages"
    installer = _installer(data_folder() / "packages")
    sandbox = Sandbox(replace(own, packages=installer.shown))
    settings = Settings(_rules(), data / "agents")
    door = Packages(
        settings,
        Approvals(data),
        installer.resolver,
        installer.environments,
        target_of(sandbox),
    )
    return Shop(door, sandbox, installer.prepare)


@dataclass(frozen=True, slots=True)
class _Installer:
    resolver: Resolver
    environments: Environments
    shown: Path | None
    prepare: Callable[[], None]


def _installer(cache: Path) -> _Installer:
    if sys.platform != "linux":
        nothing = _Nothing()
        return _Installer(nothing, nothing, None, nothing.prepare)
    from servers.packages.store import Store

    usual = Bounds()
    hosts = setting("SANDBOX_INDEX_HOSTS", "").replace(",", " ").lower().split()
    try:
        index = Index.of(setting("SANDBOX_INDEX_URL", PYPI), hosts)
    except ValueError as e:
        raise BadSetting(f"SANDBOX_INDEX_URL: {e}") from None
    bounds = Bounds(
        timeout=number("SANDBOX_INSTALL_TIMEOUT", usual.timeout),
        download=_megabytes("SANDBOX_INSTALL_DOWNLOAD_MB", usual.download),
        disk=_megabytes("SANDBOX_INSTALL_DISK_MB", usual.disk),
    )
    uv = _Uv(index, bounds)
    store = Store(cache, uv.install, _megabytes("SANDBOX_PACKAGES_DISK_MB", 4096 * MIB))
    return _Installer(uv, store, store.environments, store.prepare)


def _rules() -> Rules:
    approve = setting("SANDBOX_PACKAGES_APPROVE", "suspicious")
    if approve not in STRICTNESSES:
        known = " or ".join(STRICTNESSES)
        raise BadSetting(f"SANDBOX_PACKAGES_APPROVE is {known}, not {approve!r}")
    try:
        blocked = blocklist(setting("SANDBOX_PACKAGES_BLOCK", ""))
    except NotAPackage as e:
        raise BadSetting(f"SANDBOX_PACKAGES_BLOCK: {e}") from None
    return Rules(shipped_blocklist() | blocked, approve)


def _megabytes(name: str, usual: int) -> int:
    return int(number(name, usual / MIB) * MIB)


class _Uv:
    """uv, imported when it is first needed: most servers start without installing anything."""

    def __init__(self, index: Index, bounds: Bounds) -> None:
        self._source = (index, bounds)

    @cached_property
    def _real(self) -> Uv:
        from servers.packages.uv import Uv

        return Uv(*self._source)

    async def resolve(self, wanted: Iterable[Requirement], target: Target) -> Lock:
        return await self._real.resolve(wanted, target)

    async def install(self, lock: Lock, folder: Path) -> Path:
        return await self._real.install(lock, folder)


class _Nothing:
    """In the installer's place where there can be none."""

    async def resolve(self, wanted: Iterable[Requirement], target: Target) -> Lock:
        raise NoInstaller(_LINUX_ONLY)

    def lease(self, lock: Lock) -> AbstractAsyncContextManager[Path]:
        raise NoInstaller(_LINUX_ONLY)

    def prepare(self) -> None:
        """There is nothing to prepare."""
