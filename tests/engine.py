"""Real Docker engines for tests: the one of DOCKER_HOST, or a dockerd of our own, as root.

All workers of a run share one. A keeper process starts dockerd and stops it when the last worker
has gone, also when it was killed: each holds a lock of the file that the keeper waits for. Whoever
started a keeper waits for its end after its last test, where no test's deadline runs. A second
one, with published ports, networks and Swarm, has a network namespace of its own: nothing of the
machine's network is touched.
"""

from __future__ import annotations

import fcntl
import gc
import io
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

import docker
import pytest
from docker.errors import DockerException

IMAGE = "mcpcp-tests:latest"
VOLUME_IMAGE = "mcpcp-tests-volume:latest"
BARE_IMAGE = "mcpcp-tests-bare:latest"
"""Has no shell."""

_DEADLINE = 300.0
"""Seconds after which dockerd hangs: one that starts or stops on a slow machine takes a while."""
_OTHERS_SECONDS = 3600.0
"""How long other workers may still use an engine that this one started: a whole run."""
_PROGRAMS = ("sh", "sleep", "cat", "echo", "ls", "env", "id", "true", "yes")


@dataclass(frozen=True, slots=True)
class DockerEngine:
    """An engine that answers at `host`, a value for DOCKER_HOST, and has IMAGE and VOLUME_IMAGE."""

    host: str

    @contextmanager
    def client(self) -> Iterator[docker.DockerClient]:
        """The SDK's client, closed at the end."""
        client = docker.DockerClient(base_url=self.host, timeout=int(_DEADLINE))
        try:
            yield client
        finally:
            client.close()


def absent(what: str) -> NoReturn:
    """Skip the test, or fail it where everything is supposed to be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is missing, and this is CI")
    pytest.skip(f"{what} is missing")


@contextmanager
def no_engine() -> Iterator[None]:
    """For tests without one: the SDK does not close a socket that found nobody to connect to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


@dataclass(frozen=True, slots=True)
class NetworkedEngine:
    """An engine in a network of its own, without a way out; `inside` runs a program there."""

    host: str
    pid: int

    def inside(self, *command: str) -> list[str]:
        """The command line that runs `command` where the published ports are."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", *command]


@pytest.fixture(scope="session")
def networked_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NetworkedEngine]:
    """An engine of our own whose containers have networks and published ports."""
    if not (_is_root() and shutil.which("dockerd") and shutil.which("ip")):
        absent("what a Docker engine with networks needs (dockerd, iproute2 and root)")
    shared = run_folder(tmp_path_factory)
    with _held(shared / "networked.users", fcntl.LOCK_SH):
        with _held(shared / "networked.start", fcntl.LOCK_EX):
            _keep_by_another(shared, "networked")
            host, pid = (shared / "networked.address").read_text().split()
        yield NetworkedEngine(host, int(pid))


def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all workers of this run share."""
    shared = tmp_path_factory.getbasetemp()
    return shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared


@pytest.fixture(scope="session")
def docker_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerEngine]:
    """An engine with the test images in it."""
    shared = run_folder(tmp_path_factory)
    host = os.environ.get("DOCKER_HOST")
    if not host and not (_is_root() and shutil.which("dockerd")):
        absent("a Docker engine (dockerd and root, or DOCKER_HOST)")
    with _held(shared / "engine.users", fcntl.LOCK_SH):
        with _held(shared / "engine.start", fcntl.LOCK_EX):
            if not host:
                _keep_by_another(shared, "engine")
                host = (shared / "engine.address").read_text().split()[0]
            engine = DockerEngine(host)
            _provide_images(engine, shared)
        yield engine


def _is_root() -> bool:
    return sys.platform == "linux" and os.geteuid() == 0


@contextmanager
def _held(path: Path, kind: int) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, kind)
        yield


_keepers: list[subprocess.Popen[bytes]] = []
"""Those that this process has started."""


def await_keepers() -> None:
    """When this process's tests are over: until those of the others are, and the engines gone."""
    while _keepers:
        _keepers.pop().wait(_OTHERS_SECONDS)


def _keep_by_another(shared: Path, kind: str) -> None:
    """Start the keeper, unless another worker has: then there is an address."""
    address = shared / f"{kind}.address"
    if address.exists():
        return
    log = shared / f"{kind}.log"
    with log.open("wb") as out:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "tests.engine", str(shared), kind],
            cwd=Path(__file__).resolve().parents[1],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=out,
            start_new_session=True,
        )
    assert keeper.stdout
    with keeper.stdout as answer:
        if not answer.read():  # closed when dockerd answers
            keeper.wait(_DEADLINE)
            pytest.fail(f"dockerd did not start: {log.read_text()[-2000:]}")
    _keepers.append(keeper)


ISOLATION = {
    # no rules and no bridge: nothing of the machine's own network is touched
    "engine": ((), ("--iptables=false", "--ip6tables=false", "--ip-masq=false", "--bridge=none")),
    "networked": (
        ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"),
        ("--ip6tables=false",),
    ),
}
"""By kind: what dockerd is started with, and its own flags."""


def _keep(shared: Path, kind: str) -> None:
    """Run dockerd for as long as somebody holds the lock of its users."""
    with _dockerd(kind) as engine:
        (shared / f"{kind}.address").write_text(f"{engine.host} {engine.pid}")
        os.write(1, b"ready")
        os.close(1)
        with _held(shared / f"{kind}.users", fcntl.LOCK_EX):
            (shared / f"{kind}.address").unlink()


@dataclass
class Dockerd:
    """A dockerd in a folder of its own, that can be stopped and started."""

    folder: Path
    kind: str = "engine"
    process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        return f"unix://{self.folder}/docker.sock"

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    def start(self) -> None:
        """Return when it answers; raises RuntimeError where it does not."""
        with (self.folder / "log").open("ab") as log:
            self.process = self._launched(log)
        if not _answers(self.host, self.process):
            said = (self.folder / "log").read_text()[-2000:]
            raise RuntimeError(f"dockerd does not answer: {said}")

    def _launched(self, log: BinaryIO) -> subprocess.Popen[bytes]:
        around, flags = ISOLATION[self.kind]
        return subprocess.Popen(
            [
                *around,
                *("dockerd", "--host", self.host, "--config-file", f"{self.folder}/daemon.json"),
                *("--data-root", f"{self.folder}/data", "--exec-root", f"{self.folder}/exec"),
                *("--pidfile", f"{self.folder}/pid"),
                *flags,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )

    def stop(self) -> None:
        """Its containers are ended by it, and stay."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(_DEADLINE)
            self.process = None


@contextmanager
def _dockerd(kind: str = "engine") -> Iterator[Dockerd]:
    """One that runs, and leaves nothing behind."""
    folder = Path(tempfile.mkdtemp(prefix="mcpcp-engine-"))
    (folder / "daemon.json").write_text("{}")
    engine = Dockerd(folder, kind)
    try:
        engine.start()
        yield engine
    finally:
        engine.stop()
        _discard(folder)


@pytest.fixture
def empty_engine() -> Iterator[Dockerd]:
    """A dockerd for one test alone, without any image."""
    if not (_is_root() and shutil.which("dockerd")):
        absent("dockerd, and root to start it")
    with _dockerd() as engine:
        yield engine


@pytest.fixture
def own_engine(empty_engine: Dockerd) -> Dockerd:
    """A dockerd for one test alone, with IMAGE in it."""
    with DockerEngine(empty_engine.host).client() as client:
        import_image(client, IMAGE, _fill)
    return empty_engine


def _answers(address: str, dockerd: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + _DEADLINE
    with no_engine():
        while dockerd.poll() is None and time.monotonic() < deadline:
            with suppress(DockerException):
                client = docker.DockerClient(base_url=address, version="auto", timeout=5)
                client.close()
                return True
            time.sleep(0.1)  # dockerd has no way to say when it is ready
    return False


def _discard(folder: Path) -> None:
    """What dockerd left mounted would keep its folder from being removed."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in reversed([m for m in mounts if m.startswith(f"{folder}/")]):
        subprocess.run(["umount", "-l", mount], check=False)
    shutil.rmtree(folder, ignore_errors=True)


def _provide_images(engine: DockerEngine, shared: Path) -> None:
    """Import a small root file system made of this machine's own Python and shell: no pulls."""
    marker = shared / "engine.images"
    if marker.exists() and marker.read_text() == engine.host:  # an earlier engine may have ended
        return
    with engine.client() as client:
        import_image(client, IMAGE, _fill)
        import_image(client, BARE_IMAGE, lambda tar: _add_text(tar, "/etc/passwd", ""))
        container = client.containers.create(IMAGE, command=["true"])
        try:
            name, _, tag = VOLUME_IMAGE.partition(":")
            container.commit(repository=name, tag=tag, changes="VOLUME /data")
        finally:
            container.remove()
    marker.write_text(engine.host)


def import_image(
    client: docker.DockerClient, image: str, fill: Callable[[tarfile.TarFile], None]
) -> None:
    name, _, tag = image.partition(":")
    with tempfile.NamedTemporaryFile(suffix=".tar") as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            fill(tar)
        file.flush()
        client.api.import_image(src=file.name, repository=name, tag=tag)


def _fill(tar: tarfile.TarFile) -> None:
    python = Path(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}").resolve()
    stdlib = Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix}))
    programs = [p for p in map(shutil.which, _PROGRAMS) if p]
    extensions = [str(p) for p in (stdlib / "lib-dynload").glob("*.so")]
    tar.add(python, str(python))
    tar.add(stdlib, str(stdlib), filter=needed)
    for program in programs:
        tar.add(Path(program).resolve(), f"/bin/{Path(program).name}")
    for library in libraries([str(python), *programs, *extensions]):
        tar.add(Path(library).resolve(), library)
    for link in ("/bin/python3", "/bin/python"):
        entry = tarfile.TarInfo(link)
        entry.type, entry.linkname = tarfile.SYMTYPE, str(python)
        tar.addfile(entry)
    _add_text(tar, "/etc/passwd", "root:x:0:0:root:/:/bin/sh\n")
    for folder in ("/tmp", "/work", "/proc", "/sys", "/dev", "/data"):
        entry = tarfile.TarInfo(folder)
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(entry)


def add_programs(tar: tarfile.TarFile, programs: dict[str, str]) -> None:
    """Programs of this machine, by their place in the image, with what they need to run."""
    for place, program in programs.items():
        tar.add(Path(program).resolve(), place)
    for library in libraries(list(programs.values())):
        tar.add(Path(library).resolve(), library)
    for folder in ("/data", "/proc", "/sys", "/dev", "/tmp", "/etc"):
        entry = tarfile.TarInfo(folder)
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(entry)


def _add_text(tar: tarfile.TarFile, path: str, text: str) -> None:
    entry = tarfile.TarInfo(path)
    entry.size = len(text)
    tar.addfile(entry, io.BytesIO(text.encode()))


_UNNEEDED = {
    *("__pycache__", "test", "tests", "site-packages", "dist-packages", "idlelib", "tkinter"),
    *("ensurepip", "lib2to3", "turtledemo", "pydoc_data"),
}


def needed(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    name = Path(entry.name).name
    return None if name in _UNNEEDED or name.startswith("config-3") else entry


def libraries(programs: list[str]) -> list[str]:
    """The shared libraries of these programs, and their loader."""
    listed = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False).stdout
    words = (word for line in listed.splitlines() for word in line.split())
    return sorted({word for word in words if word.startswith("/") and not word.endswith(":")})


if __name__ == "__main__":
    _keep(Path(sys.argv[1]), sys.argv[2])
