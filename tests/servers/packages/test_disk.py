"""The store of packages on a disk that is full, read-only or not ours: nothing is half-made."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.client.client import Client

from servers.packages import disk as told
from servers.packages.approvals import Approvals
from servers.packages.errors import DiskRefuses, PackagesRefused
from servers.packages.judgement import Rules, Verdict
from servers.packages.lock import Lock, Target, Wheel
from servers.packages.names import Requirement
from servers.packages.packages import Packages, Settings
from servers.packages.store import Store
from tests.disks import PAGE, Disk, disk
from tests.servers.harness import DEADLINE, ROOT, Script, connected, running
from tests.servers.packages.index import Index

__all__ = ["disk"]

pytestmark = pytest.mark.anyio

MOST_STEPS = 60
"""Pages or files that an installation of CONTENT takes, and more."""
CONTENT = bytes(5 * PAGE)


def lock_of(name: str) -> Lock:
    wheel = Wheel(name, "1.0", "http://127.0.0.1:9/x.whl", "0" * 64)
    return Lock(Target("3.11", "x86_64-manylinux_2_28"), (wheel,))


async def fill(lock: Lock, folder: Path) -> Path:
    site = folder / "site"
    site.mkdir()
    for number in range(3):
        (site / f"part{number}.py").write_bytes(CONTENT)
    return site


def store_on(disk: Disk) -> Store:
    return Store(disk.root / "packages", fill)


def everything(root: Path) -> set[str]:
    """All there is of the store, but for its lock."""
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.name != "lock"}


async def leased(store: Store, name: str) -> int:
    """The size of what is installed then."""
    async with store.lease(lock_of(name)) as folder:
        return sum(path.stat().st_size for path in folder.iterdir())


@pytest.mark.parametrize("limit", ["full", "crowded"])
async def test_however_little_room_there_is_an_environment_is_whole_or_not_there(
    disk: Disk, limit: str
) -> None:
    store = store_on(disk)
    store.prepare()
    await leased(store, "before")
    before = everything(store.environments.parent)
    for room in range(MOST_STEPS):
        shortage = disk.full(room) if limit == "full" else disk.crowded(room)
        with shortage:
            try:
                assert await leased(store, "next") == 3 * len(CONTENT)
                break
            except DiskRefuses as e:
                assert "is full" in str(e) and "make room" in str(e)
                assert str(disk.root) not in str(e)
                assert everything(store.environments.parent) == before
            assert await leased(store, "before") == 3 * len(CONTENT)  # it can still be used
    assert 0 < room < MOST_STEPS - 1
    assert await leased(store, "next") == 3 * len(CONTENT)


async def test_a_store_that_could_not_be_made_is_made_when_there_is_room(disk: Disk) -> None:
    store = store_on(disk)
    with disk.crowded():
        with pytest.raises(OSError, match="No space"):
            store.prepare()
        with pytest.raises(DiskRefuses, match="make room where SANDBOX_DATA is"):
            await leased(store, "next")
    assert await leased(store, "next") == 3 * len(CONTENT)


async def test_on_a_disk_that_became_read_only_what_is_there_is_used(disk: Disk) -> None:
    store = store_on(disk)
    assert await leased(store, "before") == 3 * len(CONTENT)
    before = everything(store.environments.parent)
    with disk.read_only():
        started_anew = store_on(disk)
        for opened in (store, started_anew):
            assert await leased(opened, "before") == 3 * len(CONTENT)
            with pytest.raises(DiskRefuses, match=r"read-only.*make it writable"):
                await leased(opened, "next")
        assert everything(store.environments.parent) == before
    assert await leased(store, "next") == 3 * len(CONTENT)


@contextmanager
def somebody_else() -> Iterator[None]:
    """Not root, for a moment."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


async def test_a_folder_that_is_not_ours_is_told_as_such(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    theirs.chmod(0o555)
    store = Store(theirs / "packages", fill)
    with somebody_else(), pytest.raises(DiskRefuses, match="let the server's user write"):
        await leased(store, "next")
    assert list(theirs.iterdir()) == []


def test_each_refusal_says_what_to_do() -> None:
    remedies = {
        errno.ENOSPC: "make room where SANDBOX_DATA is",
        errno.EDQUOT: "quota.*make room where SANDBOX_DATA is",
        errno.EROFS: "make it writable",
        errno.EACCES: "let the server's user write",
        errno.EPERM: "let the server's user write",
        errno.EIO: "Input/output error.*look where SANDBOX_DATA is",
    }
    for number, remedy in remedies.items():
        with pytest.raises(DiskRefuses, match=remedy), told.telling(told.CACHE):
            raise OSError(number, os.strerror(number), "/a/path")


def test_only_a_full_disk_is_believed_of_what_the_installer_says() -> None:
    assert told.fullness("failed to write: No space left on device (os error 28)") == errno.ENOSPC
    assert told.fullness("Disk quota exceeded (os error 122)") == errno.EDQUOT
    assert told.fullness("failed to create /etc/x: Read-only file system (os error 30)") is None
    assert told.fullness("there is no version of x") is None


class OneWheel:
    """Everything needs itself only."""

    async def resolve(self, wanted: Any, target: Target) -> Lock:
        [requirement] = wanted
        return lock_of(requirement.name)


async def test_what_can_t_be_noted_of_an_agent_is_as_if_it_were_not_installed(
    disk: Disk, tmp_path: Path
) -> None:
    async def target() -> Target:
        return lock_of("any").target

    agents = disk.root / "agents"
    door = Packages(
        Settings(Rules(frozenset(), "suspicious"), agents),
        Approvals(disk.root),
        OneWheel(),
        Store(tmp_path / "cache", fill),
        target,
    )
    for trouble, remedy in (
        (disk.full(), "make room"),
        (disk.crowded(), "make room"),
        (disk.read_only(), "make it writable"),
    ):
        with trouble:
            with pytest.raises(PackagesRefused, match=f"{remedy}.*data_dir") as refused:
                await door.install("ann", Requirement("six"))
            assert refused.value.status == "unavailable"
            assert str(disk.root) not in str(refused.value)
            assert door.installed("ann").wanted == ()
        assert not agents.exists() or list(agents.iterdir()) == []
    await door.install("ann", Requirement("six"))
    assert [str(package) for package in door.installed("ann").wanted] == ["six"]


def test_what_waits_for_a_person_is_told_also_where_it_can_t_be_noted(disk: Disk) -> None:
    approvals = Approvals(disk.root / "packages")
    verdict = Verdict("requires_approval", Requirement("reqeusts"), "a slip")
    for trouble in (disk.read_only(), disk.full(), disk.crowded()):
        with trouble:
            approvals.ask([verdict], "ann")
    approvals.ask([verdict], "ann")
    assert "reqeusts" in (disk.root / "packages" / "waiting.json").read_text()
    assert [path.name for path in (disk.root / "packages").iterdir()] == ["waiting.json"]


async def call(opened: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await opened.call_tool(tool, arguments)
    assert isinstance(result.structured_content, dict), result
    return result.structured_content


@contextmanager
def started(folder: Path, cache: Path, index: Index) -> Iterator[Script]:
    env = {
        "SANDBOX_BACKEND": "bubblewrap",
        "MCPCP_DATA_DIR": str(folder),
        "SANDBOX_DATA": str(cache),
        "SANDBOX_INDEX_URL": index.url,
    }
    with running(ROOT / "servers" / "sandbox.py", env=env) as script:
        yield script


@pytest.mark.bwrap
async def test_an_installation_that_fills_the_disk_leaves_it_as_it_was(
    disk: Disk, index: Index, target: Target, tmp_path: Path
) -> None:
    index.add("large", files={"large.bin": os.urandom(6 << 20)})
    index.add("small")
    cache = disk.root / "data"
    with started(tmp_path / "data", cache, index) as script:
        async with connected(script.url, "http", "auto") as opened:
            free = os.statvfs(disk.root).f_bfree
            made = await call(opened, "install_package", name="large")
            assert made["status"] == "unavailable", made
            assert "is full" in made["message"] and "make room" in made["message"]
            assert str(disk.root) not in made["message"]
            assert (made["requested"], made["packages"]) == ([], [])
            assert os.statvfs(disk.root).f_bfree == free
            named = await call(opened, "execute_code", code="1", packages=["large"])
            assert named["status"] == "refused" and "make room" in named["stderr"]
            made = await call(opened, "install_package", name="small")
            assert made["status"] == "installed", made
            ran = await call(opened, "execute_code", code="import small\nsmall.VALUE")
            assert ran["result"] == "'it works'"


@pytest.mark.bwrap
async def test_a_server_that_finds_the_disk_full_serves_and_installs_when_there_is_room(
    disk: Disk, index: Index, target: Target, tmp_path: Path
) -> None:
    index.add("small")
    cache = disk.root / "data"
    with ExitStack() as trouble:
        trouble.enter_context(disk.full())
        trouble.enter_context(disk.crowded())
        with started(tmp_path / "data", cache, index) as script:
            async with connected(script.url, "http", "auto") as opened:
                health = script.get("/health").json()
                assert health["status"] == "degraded" and "make room" in health["detail"]
                made = await call(opened, "install_package", name="small")
                assert made["status"] == "unavailable", made
                trouble.close()
                with anyio.fail_after(DEADLINE * 5):
                    while script.get("/health").json()["status"] != "ok":  # noqa: ASYNC110
                        await anyio.sleep(0.1)
                assert (await call(opened, "execute_code", code="6 * 7"))["result"] == "42"
                made = await call(opened, "install_package", name="small")
                assert made["status"] == "installed", made
