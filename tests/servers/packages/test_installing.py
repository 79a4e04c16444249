"""Real uv in its box, against a real index on loopback that is not always honest."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import anyio
import psutil
import pytest

from servers.packages import usage
from servers.packages.box import Job
from servers.packages.errors import BadLock, InstallationFailed, Unusable
from servers.packages.lock import Lock, Target
from servers.packages.names import requirement
from servers.packages.proxy import Proxy
from servers.packages.source import Bounds
from servers.packages.source import Index as Source
from servers.packages.store import Store
from servers.packages.uv import Uv
from servers.sandboxing import cgroup
from servers.sandboxing.outcome import MIB, Limits
from tests import processes
from tests.engine import absent
from tests.servers.harness import DEADLINE
from tests.servers.packages.index import Index, serving, wheel

pytestmark = [pytest.mark.anyio, pytest.mark.bwrap]


def uv(index: Index, **bounds: float) -> Uv:
    return Uv(Source.of(index.url, ()), replace(Bounds(timeout=3 * DEADLINE), **bounds))  # type: ignore[arg-type]


def store(root: Path, installer: Uv, most: int = 1024 * MIB) -> Store:
    opened = Store(root, installer.install, most)
    opened.prepare()
    return opened


async def resolved(installer: Uv, target: Target, *names: str) -> Lock:
    return await installer.resolve([requirement(name) for name in names], target)


async def installed(root: Path, installer: Uv, target: Target, *names: str) -> dict[str, str]:
    """The files of an environment, by their paths."""
    lock = await resolved(installer, target, *names)
    async with store(root, installer).lease(lock) as folder:
        return {
            str(path.relative_to(folder)): path.read_text(errors="replace")
            for path in folder.rglob("*")
            if path.is_file() and path.suffix != ".pyc"
        }


def leftovers(root: Path) -> list[str]:
    return [path.name for part in ("staging", "environments") for path in (root / part).iterdir()]


async def test_a_package_comes_with_what_it_needs(
    index: Index, target: Target, tmp_path: Path
) -> None:
    index.add("app", needs=["lib>=1.0"])
    index.add("lib", "1.0")
    index.add("lib", "1.5")
    files = await installed(tmp_path, uv(index), target, "app")
    assert files["app.py"] == "VALUE = 'it works'\n"
    assert "lib-1.5.dist-info/METADATA" in files


async def test_a_pinned_version_is_that_version(index: Index, target: Target) -> None:
    for version in ("1.0", "2.0"):
        index.add("lib", version)
    lock = await resolved(uv(index), target, "lib==1.0")
    assert [str(w.requirement) for w in lock.wheels] == ["lib==1.0"]


async def test_resolving_fetches_no_package(index: Index, target: Target) -> None:
    index.add("app", needs=["lib"])
    index.add("lib")
    await resolved(uv(index), target, "app")
    assert index.was_asked(".metadata") and not index.was_asked(".whl")


async def test_source_packages_are_not_built(index: Index, target: Target, tmp_path: Path) -> None:
    index.files["/files/app-1.0.tar.gz"] = b"not even read"
    index.link("app", '<a href="/files/app-1.0.tar.gz#sha256=00">app-1.0.tar.gz</a>')
    with pytest.raises(InstallationFailed, match="app"):
        await resolved(uv(index), target, "app")
    assert not index.was_asked(".tar.gz")


async def test_what_lies_too_deep_to_be_counted_is_not_installed(
    index: Index, target: Target, tmp_path: Path
) -> None:
    deep = "/".join(["deep"] * 60)
    index.add("app", files={f"{deep}/{n}": os.urandom(MIB) for n in range(8)})
    with pytest.raises(InstallationFailed, match="folders deep"):
        await installed(tmp_path, uv(index, disk=2 * MIB), target, "app")
    assert leftovers(tmp_path) == []


async def test_a_wheel_that_changed_after_it_was_resolved_is_refused(
    index: Index, target: Target, tmp_path: Path
) -> None:
    path, installer = index.add("app"), uv(index)
    lock = await resolved(installer, target, "app")
    index.files[path] = wheel("app", files={"app.py": b"VALUE = 'another one'\n"})
    with pytest.raises(InstallationFailed, match=r"(?i)hash"):
        async with store(tmp_path, installer).lease(lock):
            pass
    assert leftovers(tmp_path) == []


async def test_a_wheel_can_t_write_outside_its_folder(
    index: Index, target: Target, tmp_path: Path
) -> None:
    names = ["../slip.py", "../../slip.py", "/tmp/slip.py", "/target/slip.py", "a/../../slip.py"]
    for number, name in enumerate(names):
        index.add(f"evil{number}", data=wheel(f"evil{number}", files={name: b"gone wrong"}))
    for number in range(len(names)):
        root = tmp_path / str(number)
        with suppress(InstallationFailed):
            await installed(root, uv(index), target, f"evil{number}")
        outside = set(root.rglob("slip.py")) - set((root / "environments").rglob("*"))
        assert not outside
        assert not Path("/tmp/slip.py").exists()


async def test_links_in_a_wheel_are_not_kept(index: Index, target: Target, tmp_path: Path) -> None:
    index.add("linked", links={"linked_passwd": "/etc/passwd"})
    try:
        files = await installed(tmp_path, uv(index), target, "linked")
    except (InstallationFailed, Unusable):
        return
    assert "root:" not in files["linked_passwd"]
    assert not [path for path in (tmp_path / "environments").rglob("*") if path.is_symlink()]


async def test_a_wheel_that_unpacks_to_too_much_is_stopped(
    index: Index, target: Target, tmp_path: Path
) -> None:
    index.add("huge", files={f"part{n}.bin": bytes(10 * MIB) for n in range(6)})
    with pytest.raises(InstallationFailed, match=r"more than 20 MB on disk|os error 27"):
        await installed(tmp_path, uv(index, disk=20 * MIB), target, "huge")
    assert leftovers(tmp_path) == []


async def test_too_many_files_are_too_much(index: Index, target: Target, tmp_path: Path) -> None:
    index.add("many", files={f"many/{n}.py": b"" for n in range(300)})
    with pytest.raises(InstallationFailed, match="more than 200 files"):
        await installed(tmp_path, uv(index, files=200), target, "many")
    assert leftovers(tmp_path) == []


async def test_what_is_too_large_is_not_fetched_to_its_end(
    index: Index, target: Target, tmp_path: Path
) -> None:
    index.add("large", files={"large.bin": os.urandom(4 * MIB)})
    with pytest.raises(InstallationFailed, match="more than 1 MB to fetch"):
        await installed(tmp_path, uv(index, download=1 * MIB), target, "large")


async def test_an_index_that_hangs_is_given_up(
    index: Index, target: Target, tmp_path: Path
) -> None:
    index.hanging.add(index.add("app"))
    installer = uv(index)
    lock = await resolved(installer, target, "app")
    installer.bounds = replace(installer.bounds, timeout=2.0)
    with pytest.raises(InstallationFailed, match="longer than 2 s"):
        async with store(tmp_path, installer).lease(lock):
            pass
    assert leftovers(tmp_path) == []


async def test_a_cancelled_installation_leaves_nothing(
    index: Index, target: Target, tmp_path: Path
) -> None:
    path, installer = index.add("app"), uv(index)
    lock = await resolved(installer, target, "app")
    index.hanging.add(path)
    opened = store(tmp_path, installer)
    async with anyio.create_task_group() as tasks:

        async def install() -> None:
            async with opened.lease(lock):
                pass

        tasks.start_soon(install)
        await anyio.to_thread.run_sync(index.wait_for, path)
        at_work = [p for p in processes.below(os.getpid()) if "bwrap" in processes.name(p)]
        tasks.cancel_scope.cancel()
    assert at_work
    assert psutil.wait_procs(at_work, DEADLINE)[1] == []
    assert leftovers(tmp_path) == []


async def test_files_on_another_host_are_refused_by_name(index: Index, target: Target) -> None:
    with serving() as other:
        path = other.add("app")
        line = other.pages["app"][0].replace('href="', f'href="http://{other.host}')
        index.link("app", line.replace("data-core-metadata", "data-none"))
        with pytest.raises(InstallationFailed, match=f"{other.host}.*SANDBOX_INDEX_HOSTS"):
            await resolved(uv(index), target, "app")
        assert path not in other.asked


async def test_a_redirect_leads_to_no_other_host(index: Index, target: Target) -> None:
    with serving() as other:
        other.add("app")
        index.redirects["/simple/app/"] = f"{other.url}/app/"
        with pytest.raises(InstallationFailed, match=f"{other.host}.*SANDBOX_INDEX_HOSTS"):
            await resolved(uv(index), target, "app")
        assert other.asked == []


async def test_a_dependency_by_address_is_refused(index: Index, target: Target) -> None:
    with serving() as other:
        index.add("app", needs=[f"evil @ http://{other.host}{other.add('evil')}"])
        with pytest.raises(InstallationFailed):
            await resolved(uv(index), target, "app")
        assert other.asked == []


async def test_callers_share_one_installation(index: Index, target: Target, tmp_path: Path) -> None:
    path, installer = index.add("app"), uv(index)
    lock, opened = await resolved(installer, target, "app"), store(tmp_path, installer)
    folders: list[Path] = []

    async def use() -> None:
        async with opened.lease(lock) as folder:
            folders.append(folder)

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(use)
    assert len(folders) == 4 and len(set(folders)) == 1
    assert index.asked.count(path) == 1


JAILBREAK = """
import os, socket
found = []
def works(what, attempt):
    try:
        attempt()
    except OSError:
        return
    found.append(what)
works("the host's loopback", lambda: socket.create_connection(("127.0.0.1", %d), 2))
works("the network", lambda: socket.socket(2, 2).connect(("192.0.2.1", 9)))
works("the host's files", lambda: os.stat("/etc/passwd"))
works("the test's files", lambda: os.stat(%r))
works("the system's folders", lambda: open("/usr/lib/x", "w"))
works("the root folder", lambda: os.mkdir("/x"))
if os.getuid() == 0: found.append("root")
if "CANARY" in os.environ: found.append("the environment")
open("/target/made", "w").write("here")
print(found)
"""


async def test_the_installer_reaches_nothing_but_the_proxy(
    index: Index, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY", "x")
    box = await uv(index).box()
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(0o777)
    with socket.create_server(("127.0.0.1", 0)) as host:
        code = JAILBREAK % (host.getsockname()[1], str(tmp_path))
        words = ("-c", 'exec "$0" -I -c "$1"', box.interpreter.path, code)
        shell = replace(box, program=Path("/bin/sh"))
        ran = await shell.run(Job(words, folder=folder, timeout=DEADLINE), Proxy((), 0).serving)
    assert (ran.exit_code, ran.stdout) == (0, b"[]\n"), ran
    assert (folder / "made").read_text() == "here"


CROWD = """
import os, signal
children = []
stay, held_open = os.pipe()
for _ in range(8):
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        held = bytearray(b"x") * (24 << 20)
        os.write(tell, b"x")
        os.read(stay, 1)
        os._exit(0)
    os.close(tell)
    os.read(told, 1)  # or it was killed
    children.append(pid)
alive = [child for child in children if os.waitpid(child, os.WNOHANG) == (0, 0)]
for child in alive:
    os.kill(child, signal.SIGKILL)
print(len(alive))
"""


async def test_what_an_installation_takes_is_bounded_as_a_whole(
    index: Index, target: Target
) -> None:
    box = await uv(index).box()
    assert box.scope == cgroup.has_scopes(), "systemd is asked where there is one"
    if not box.scope and box.groups is None:
        absent("a control group that may be divided")
    words = ("-c", 'exec "$0" -I -c "$1"', box.interpreter.path, CROWD)
    small = replace(box, program=Path("/bin/sh"), limits=Limits(memory=64 * MIB, processes=32))
    ran = await small.run(Job(words, timeout=DEADLINE), Proxy((), 0).serving)
    assert ran.exit_code == 0 or not ran.stdout, ran
    assert int(ran.stdout or 0) <= 2, "three of 24 MB are too much for 64"
    roomy = replace(small, limits=Limits(memory=1024 * MIB, processes=32))
    ran = await roomy.run(Job(words, timeout=DEADLINE), Proxy((), 0).serving)
    assert ran.stdout == b"8\n", ran


async def test_the_least_recently_used_environment_goes_first(
    index: Index, target: Target, tmp_path: Path
) -> None:
    installer = uv(index)
    opened = store(tmp_path, installer, most=3 * MIB)
    locks = []
    for name in ("one", "two", "three"):
        index.add(name, files={f"{name}.bin": os.urandom(MIB)})
        locks.append(await resolved(installer, target, name))
    async with opened.lease(locks[0]) as first:
        async with opened.lease(locks[1]) as second:
            pass
        async with opened.lease(locks[2]) as third:
            assert first.exists() and third.exists() and not second.exists()


async def test_what_a_killed_process_left_is_swept(
    index: Index, target: Target, tmp_path: Path
) -> None:
    index.add("app")
    installer = uv(index)
    opened = store(tmp_path, installer)
    lock = await resolved(installer, target, "app")
    async with opened.lease(lock) as kept:
        pass
    (tmp_path / "staging" / "left").mkdir()
    (tmp_path / "environments" / "half").mkdir()
    opened.prepare()
    assert leftovers(tmp_path) == [kept.name]


def test_the_size_of_a_folder_counts_every_file_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(100_000))
    os.link(tmp_path / "a", tmp_path / "b")
    (tmp_path / "c").symlink_to("/")
    used = usage.of(tmp_path)
    assert used.files == 2 and 100_000 <= used.size < 120_000


@pytest.mark.parametrize("make", [lambda p: p.symlink_to("/etc"), lambda p: os.mkfifo(p)])
def test_only_folders_and_files_are_shown_to_sandboxes(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    (tmp_path / "fine").write_text("x")
    assert usage.seal(tmp_path) is None
    (tmp_path / "fine").chmod(0o4777)
    assert usage.seal(tmp_path) is None
    assert (tmp_path / "fine").stat().st_mode & 0o7777 == 0o755
    make(tmp_path / "odd")
    assert "odd" in (usage.seal(tmp_path) or "")


def test_an_index_names_its_hosts() -> None:
    assert Source.of("https://pypi.org/simple", ()).reachable() == {
        ("pypi.org", 443),
        ("files.pythonhosted.org", 443),
    }
    private = Source.of("https://me:secret@packages.test:8443/simple", ["cdn.test"])
    assert private.reachable() == {("packages.test", 8443), ("cdn.test", 443)}
    with pytest.raises(ValueError, match="no address"):
        Source.of("file:///etc", ())


def test_a_bad_lock_is_an_installation_that_failed() -> None:
    assert issubclass(BadLock, InstallationFailed)
