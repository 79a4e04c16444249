"""Makes the Docker backend's image out of this machine's own Python: no registry, nothing pulled.

    python -m servers.sandboxing.image

It holds the interpreter that runs this, its standard library, the libraries of the extra `sandbox`
where they are installed, a shell and a few programs, and the shared libraries that all these need.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import docker

from servers.sandboxing.libraries import libraries

NAME = "mcpcp-sandbox:latest"

_PROGRAMS = (
    *("sh", "cat", "cp", "echo", "env", "false", "grep", "head", "id", "ls", "mkdir", "mv"),
    *("rm", "sed", "sleep", "sort", "tail", "true", "uname", "wc"),
)
_PYTHON = "opt/python"
_SITE = f"{_PYTHON}/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
_UNNEEDED = {
    *("__pycache__", "test", "tests", "site-packages", "dist-packages", "idlelib", "tkinter"),
    *("ensurepip", "lib2to3", "turtledemo", "pydoc_data"),
}


def make(client: docker.DockerClient) -> None:
    """Make the image in the client's engine; an older one of that name loses it."""
    name, _, tag = NAME.partition(":")
    with tempfile.NamedTemporaryFile(suffix=".tar") as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            _fill(tar)
        file.flush()
        client.api.import_image(src=file.name, repository=name, tag=tag)


def _fill(tar: tarfile.TarFile) -> None:
    python = Path(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}").resolve()
    stdlib = Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix}))
    programs = [Path(p).resolve() for p in map(shutil.which, _PROGRAMS) if p]
    tar.add(python, f"{_PYTHON}/bin/python3")
    tar.add(stdlib, f"{_PYTHON}/lib/{stdlib.name}", filter=_standard)
    for library in libraries():
        tar.add(library, f"{_SITE}/{library.name}", filter=_installed)
    for name, program in zip(_PROGRAMS, programs, strict=False):
        tar.add(program, f"bin/{name}")
    for link in ("bin/python3", "bin/python"):
        _link(tar, link, f"/{_PYTHON}/bin/python3")
    for path in _shared([python, *programs, *_extensions((stdlib, *libraries()))]):
        tar.add(Path(path).resolve(), path.lstrip("/"))
    _text(tar, "etc/passwd", "root:x:0:0:root:/:/bin/sh\nsandbox:x:65534:65534::/work:/bin/sh\n")
    for folder in ("tmp", "work", "proc", "sys", "dev", "opt/packages"):
        _folder(tar, folder)


def _standard(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    name = Path(entry.name).name
    return None if name in _UNNEEDED or name.startswith("config-3") else _plain(entry)


def _installed(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if Path(entry.name).name in ("__pycache__", "tests") else _plain(entry)


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Nobody's in particular, readable for all."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mode |= 0o555 if entry.isdir() else 0o444
    return entry


def _extensions(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        if folder.is_dir():
            yield from (p for p in folder.rglob("*.so*") if p.is_file())


def _shared(files: list[Path]) -> list[str]:
    """The shared libraries of these, as the loader finds them here, and the loader itself."""
    listed = subprocess.run(
        ["ldd", *map(str, files)], capture_output=True, text=True, check=False
    ).stdout
    words = (word for line in listed.splitlines() if line[:1].isspace() for word in line.split())
    inside = tuple(str(path) for path in libraries())
    return sorted({w for w in words if w.startswith("/") and not w.startswith(inside)})


def _link(tar: tarfile.TarFile, path: str, target: str) -> None:
    entry = tarfile.TarInfo(path)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    tar.addfile(entry)


def _folder(tar: tarfile.TarFile, path: str) -> None:
    entry = tarfile.TarInfo(path)
    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
    tar.addfile(entry)


def _text(tar: tarfile.TarFile, path: str, text: str) -> None:
    entry = tarfile.TarInfo(path)
    entry.size = len(text)
    entry.mode = 0o644
    tar.addfile(entry, io.BytesIO(text.encode()))


def main() -> None:
    """Make it in the engine of DOCKER_HOST."""
    if sys.platform != "linux":
        raise SystemExit("a sandbox image is made on Linux: here, `mcpcp sandbox pull` gets one")
    client = docker.from_env(timeout=int(os.environ.get("DOCKER_TIMEOUT", "120")))
    try:
        make(client)
    finally:
        client.close()
    sys.stdout.write(f"made {NAME}\n")


if __name__ == "__main__":
    main()
