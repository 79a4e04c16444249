"""What the Dockerfile begins with, made of this machine's own Python: nothing can be pulled here.

It is as python:3-slim is (an interpreter below /usr/local, pip, a shell), with the wheels of our
requirements in it, since the engine's network has no way out.
"""

from __future__ import annotations

import fcntl
import io
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from configparser import ConfigParser
from pathlib import Path
from typing import Final

from tests.conftest import PROJECT
from tests.engine import NetworkedEngine, libraries, needed

BASE: Final = "mcpcp-tests-base:latest"
IMAGE: Final = "mcpcp:latest"

_PROGRAMS: Final = (
    *("sh", "bash", "ldd", "mkdir", "chown", "chmod", "cp", "echo", "sleep", "env", "ls", "cat"),
    *("head", "tail", "sort", "grep", "sed", "id", "mv", "rm", "true", "false", "uname", "wc"),
)
_VERSION: Final = f"python3.{sys.version_info.minor}"
DEADLINE: Final = 1200
"""Seconds after which something hangs, here and in the tests: images are built, and engines wait
for each other."""


def build_image(engine: NetworkedEngine, shared: Path) -> str:
    """The image of the Dockerfile, built once in a test run."""
    with (shared / "image.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        marker = shared / "image.built"
        if not marker.exists():
            _import_base(engine, shared)
            _docker(
                engine,
                "build",
                "--tag",
                IMAGE,
                "--build-arg",
                f"BASE={BASE}",
                str(PROJECT),
                log=shared,
            )
            marker.touch()
    return IMAGE


def _docker(engine: NetworkedEngine, *args: str, log: Path) -> None:
    ran = subprocess.run(
        ["docker", "--host", engine.host, *args],
        env={
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(log),
            "DOCKER_BUILDKIT": "0",
        },
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]


def _import_base(engine: NetworkedEngine, shared: Path) -> None:
    wheels = _wheels(shared / "wheels")
    file = shared / "base.tar"
    with tarfile.open(file, mode="w") as tar:
        _fill(tar, wheels)
    try:
        settings = (
            "ENV PIP_NO_INDEX=1",
            "ENV PIP_FIND_LINKS=/wheels",
            "ENV PIP_ROOT_USER_ACTION=ignore",
        )
        changes = [part for setting in settings for part in ("--change", setting)]
        _docker(engine, "import", *changes, str(file), BASE, log=shared)
    finally:
        file.unlink()


def _wheels(folder: Path) -> Path:
    """The wheels of everything that the image installs."""
    config = ConfigParser()
    config.read(PROJECT / "setup.cfg")
    wanted = config["options"]["install_requires"].split("\n")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:"),
            *("--disable-pip-version-check", "--dest", str(folder)),
            *(line for line in wanted if line),
            *("setuptools>=65", "wheel"),
        ],
        timeout=DEADLINE,
        check=True,
    )
    return folder


def _fill(tar: tarfile.TarFile, wheels: Path) -> None:
    python = Path(sys.base_prefix, "bin", _VERSION).resolve()
    stdlib = Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix}))
    programs = [p for p in map(shutil.which, _PROGRAMS) if p]
    extensions = [
        str(path)
        for folder in (stdlib / "lib-dynload", Path(sysconfig.get_path("platlib")))
        for path in folder.rglob("*.so")
    ]
    tar.add(python, f"/usr/local/bin/{_VERSION}")
    tar.add(stdlib, f"/usr/local/lib/{_VERSION}", filter=needed)
    pip = Path(sysconfig.get_path("purelib"), "pip")
    tar.add(pip, f"/usr/local/lib/{_VERSION}/pip")
    tar.add(wheels, "/wheels")
    for program in programs:
        tar.add(Path(program).resolve(), f"/bin/{Path(program).name}")
    site = sysconfig.get_path("platlib")  # wheels bring their own
    for library in libraries([str(python), *programs, *extensions]):
        if not library.startswith(site):
            tar.add(Path(library).resolve(), library)
    for link in ("python3", "python"):
        entry = tarfile.TarInfo(f"/usr/local/bin/{link}")
        entry.type, entry.linkname = tarfile.SYMTYPE, _VERSION
        tar.addfile(entry)
    accounts = b"root:x:0:0:root:/root:/bin/sh\n"
    entry = tarfile.TarInfo("/etc/passwd")
    entry.size = len(accounts)
    tar.addfile(entry, io.BytesIO(accounts))
    for folder in ("/tmp", "/root", "/proc", "/sys", "/dev"):
        entry = tarfile.TarInfo(folder)
        entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "/tmp" else 0o755
        tar.addfile(entry)
