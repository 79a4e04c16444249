"""Makes the Docker backend's image out of this machine's own Python: no registry, nothing pulled.

    python -m servers.sandboxing.image      (DOCKER_HOST says in which engine, else the local one)

It holds the interpreter that runs this, its standard library, the libraries of the extra `sandbox`
where they are installed, a shell and a few programs, and the shared libraries that all these need.
Modules are in it with their byte code: a container is read-only, so that each would have to compile
them again, the ones that numpy imports in 0.3 s.
"""

from __future__ import annotations

import argparse
import io
import os
import py_compile
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from importlib.util import cache_from_source
from pathlib import Path, PurePosixPath

import docker

from servers.sandboxing.libraries import libraries

NAME = "mcpcp-sandbox:latest"

_PROGRAMS = (
    *("sh", "cat", "cp", "echo", "env", "false", "grep", "head", "id", "ls", "mkdir", "mv"),
    *("rm", "sed", "sleep", "sort", "tail", "true", "uname", "wc"),
)
_PYTHON = "opt/python"
_SITE = f"{_PYTHON}/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
_Filter = Callable[[tarfile.TarInfo], tarfile.TarInfo | None]
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
    add_modules(tar, stdlib, f"{_PYTHON}/lib/{stdlib.name}", _standard)
    for library in libraries():
        add_modules(tar, library, f"{_SITE}/{library.name}", installed)
    for name, program in zip(_PROGRAMS, programs, strict=False):
        tar.add(program, f"bin/{name}")
    for link in ("bin/python3", "bin/python"):
        _link(tar, link, f"/{_PYTHON}/bin/python3")
    for path in _shared([python, *programs, *_extensions((stdlib, *libraries()))]):
        tar.add(Path(path).resolve(), path.lstrip("/"))
    _file(tar, "etc/passwd", b"root:x:0:0:root:/:/bin/sh\nsandbox:x:65534:65534::/work:/bin/sh\n")
    for folder in ("tmp", "work", "proc", "sys", "dev", "opt/packages"):
        _folder(tar, folder)


def add_modules(tar: tarfile.TarFile, root: Path, place: str, wanted: _Filter) -> None:
    """What is wanted of a folder of modules, or of one module alone, and the byte code of each."""
    before = len(tar.getmembers())
    tar.add(root, place, filter=wanted)
    caches = set()
    for entry in tar.getmembers()[before:]:
        module = PurePosixPath(entry.name)
        code = _byte_code(root / module.relative_to(place)) if module.suffix == ".py" else None
        if code is None:
            continue
        cache = module.parent / "__pycache__"
        if cache not in caches:
            caches.add(cache)
            _folder(tar, str(cache))
        _file(tar, str(cache / f"{module.stem}.{sys.implementation.cache_tag}.pyc"), code)


def _byte_code(source: Path) -> bytes | None:
    """What this interpreter has made of it, or makes of it now; None where it can't be compiled.

    It is valid for a source of the same size and time, which the image's has.
    """
    made = Path(cache_from_source(str(source)))
    if made.is_file():
        return made.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        path = py_compile.compile(str(source), cfile=f"{folder}/code", quiet=2)
        return None if path is None else Path(path).read_bytes()


def _standard(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    name = Path(entry.name).name
    return None if name in _UNNEEDED or name.startswith("config-3") else _plain(entry)


def installed(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """What is wanted of a library."""
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


def _file(tar: tarfile.TarFile, path: str, content: bytes) -> None:
    entry = tarfile.TarInfo(path)
    entry.size = len(content)
    entry.mode = 0o644
    tar.addfile(entry, io.BytesIO(content))


def main() -> None:
    """Make it in the engine of DOCKER_HOST."""
    argparse.ArgumentParser(
        prog="python -m servers.sandboxing.image",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
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
