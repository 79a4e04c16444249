"""Resolving and unpacking by uv, each run of it in a box of its own.

Wheels only, from one index only, with none of the host's settings: nothing that a package brings
is ever run. Below: `box`, `proxy`.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import anyio
import anyio.to_thread

if sys.platform != "linux":
    raise ImportError("only Linux has this")

from servers.packages import disk, lock, usage
from servers.packages.box import Box, BoxBroken, Job, Ran
from servers.packages.errors import InstallationFailed, NoInstaller
from servers.packages.lock import Lock, Target
from servers.packages.names import Requirement
from servers.packages.proxy import Proxy
from servers.packages.source import Bounds, Index
from servers.sandboxing import bubblewrap, cgroup
from servers.sandboxing.outcome import MIB

logger = logging.getLogger(__name__)

_METADATA = 128 * MIB
_WATCH_SECONDS = 0.2
_COMPLAINT = 1500
_SHARED = (
    "--no-config",
    "--no-progress",
    *("--color", "never"),
    "--no-python-downloads",
    *("--only-binary", ":all:"),
    *("--index-strategy", "first-index"),
    *("--keyring-provider", "disabled"),
    *("--preview-features", "pylock"),
)


@dataclass(slots=True)
class Uv:
    """uv in boxes; which Python the box shows is found out once, by trying."""

    index: Index
    bounds: Bounds = field(default_factory=Bounds)
    at_once: int = 2
    _box: Box | None = None
    _finding: anyio.Lock = field(default_factory=anyio.Lock)
    _places: anyio.CapacityLimiter | None = None

    async def resolve(self, wanted: Iterable[Requirement], target: Target) -> Lock:
        """Everything that the wanted packages need, of which nothing but metadata was fetched.

        Raises InstallationFailed, NoInstaller or BadLock.
        """
        words = ("pip", "compile", *self._words(target), "--no-cache", "--format", "pylock.toml")
        names = "".join(f"{requirement}\n" for requirement in wanted)
        job = Job((*words, "--quiet", "-"), names.encode(), timeout=self.bounds.timeout)
        ran = await self._run(job, _METADATA)
        return lock.parse(
            ran.stdout.decode("utf-8", "replace"), target, self.index.hosts, self.bounds.packages
        )

    async def install(self, lock: Lock, folder: Path) -> Path:
        """Fetch and unpack a lock's wheels into `folder`, which is empty; where they lie then.

        What lies there is somebody else's, and not looked through yet. Raises InstallationFailed
        or NoInstaller.
        """
        (folder / "cache").mkdir()
        (folder / "site").mkdir()
        (folder / "pylock.toml").write_text(lock.to_toml(), "ascii")
        if os.geteuid() == 0:
            nobody = bubblewrap.SANDBOX_UID
            for path in (folder, folder / "cache", folder / "site"):
                os.chown(path, nobody, nobody)
        words = ("pip", "install", *self._words(lock.target), "--no-deps", "--require-hashes")
        words += ("--cache-dir", "/target/cache", "--link-mode", "hardlink", "--quiet")
        words += ("-r", "/target/pylock.toml", "--target", "/target/site")
        if (await self.box()).makes_bytecode_for(lock.target.python):
            words += ("--compile-bytecode",)
        job = Job(words, folder=folder, timeout=self.bounds.timeout, file_size=self.bounds.disk)
        await self._watched(job, folder)
        return folder / "site"

    async def _watched(self, job: Job, folder: Path) -> None:
        """Run an installation, and end it when its folder gets too large."""
        found: list[str] = []
        failed: list[InstallationFailed | NoInstaller] = []

        async def look() -> bool:
            used = await anyio.to_thread.run_sync(usage.of, folder)
            found.extend(used.beyond(self.bounds.disk, self.bounds.files))
            return bool(found)

        async def watch() -> None:
            while not await look():  # noqa: ASYNC110 - nobody tells when a folder grows
                await anyio.sleep(_WATCH_SECONDS)
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            try:
                await self._run(job, self.bounds.download)
            except (InstallationFailed, NoInstaller) as e:
                failed.append(e)
            tasks.cancel_scope.cancel()
        if found or await look():
            raise InstallationFailed(found[0])
        if failed:
            raise failed[0]

    def _words(self, target: Target) -> tuple[str, ...]:
        return (
            *_SHARED,
            *("--default-index", self.index.url),
            *("--python-version", target.python, "--python-platform", target.platform),
        )

    async def _run(self, job: Job, most: int) -> Ran:
        box = await self.box()
        job = replace(job, words=(*job.words, "--python", box.interpreter.path))
        proxy = Proxy(self.index.reachable(), most)
        try:
            async with self._limiter():
                ran = await box.run(job, proxy.serving)
        except (BoxBroken, OSError) as e:
            raise NoInstaller(f"the installer's sandbox did not come up: {e}") from e
        full = disk.fullness(ran.stderr) if ran.exit_code and job.folder else None
        if full is not None:
            raise disk.refusal(full, disk.CACHE)
        if ran.exit_code != 0:
            raise InstallationFailed(self._why(ran, proxy))
        return ran

    def _why(self, ran: Ran, proxy: Proxy) -> str:
        if ran.exit_code is None:
            return f"it took longer than {self.bounds.timeout:.0f} s"
        if proxy.exhausted:
            return f"there was more than {proxy.most // MIB} MB to fetch"
        if proxy.denied:
            return (
                f"the index sent the installer to {', '.join(sorted(proxy.denied))}, which is not"
                " among its hosts (SANDBOX_INDEX_HOSTS names further ones)"
            )
        return ran.stderr[:_COMPLAINT] or f"the installer left with {ran.exit_code}"

    def _limiter(self) -> anyio.CapacityLimiter:
        if self._places is None:  # one belongs to the loop that it is made in
            self._places = anyio.CapacityLimiter(self.at_once)
        return self._places

    async def box(self) -> Box:
        """The sandbox that works here; raises NoInstaller."""
        async with self._finding:
            if self._box is None:
                self._box = await self._find()
        return self._box

    async def _find(self) -> Box:
        bwrap, program = bubblewrap.find_bwrap(), find_uv()
        if bwrap is None or program is None:
            missing = "uv (`pip install uv`)" if bwrap else "bubblewrap (`apt install bubblewrap`)"
            raise NoInstaller(f"packages can't be installed here: {missing} is missing")
        complaint = "no Python was found"
        ways = await anyio.to_thread.run_sync(_ways)
        for (groups, scope), interpreter in product(ways, bubblewrap.interpreters()):
            box = Box(bwrap, interpreter, groups, program, _certificates(os.environ), scope)
            try:
                ran = await box.run(Job(("--version",)), Proxy((), 0).serving)
            except (BoxBroken, OSError) as e:
                complaint = str(e)
                logger.warning("an installer's sandbox is not usable", extra={"why": complaint})
                continue
            if ran.exit_code == 0:
                return box
            complaint = ran.stderr
        raise NoInstaller(f"the installer's sandbox does not come up here: {complaint}")


def _ways() -> list[tuple[cgroup.Groups | None, bool]]:
    """How its memory and processes may be bounded as a whole, best first: groups, or a scope."""
    scoped = [(None, True)] if cgroup.has_scopes() else []
    return [*scoped, (cgroup.find(), False)]


def find_uv() -> Path | None:
    """The program: that of our own environment before any other on the PATH."""
    own = Path(sys.prefix, "bin", "uv")
    found = str(own) if own.is_file() else shutil.which("uv")
    return Path(found) if found else None


def _certificates(environ: Mapping[str, str]) -> bytes | None:
    """What the host was told to trust; None leaves uv its own list."""
    named = environ.get("SSL_CERT_FILE")
    try:
        return Path(named).read_bytes() if named else None
    except OSError as e:
        logger.warning("SSL_CERT_FILE can't be read", extra={"why": str(e)})
        return None
