"""Programs that nobody here wrote, installed once a machine into a cache outside the checkout.

All workers share an installation: the first makes it, under a lock, the others wait. It is whole or
not there: it is made beside its place and moved. `MCPCP_TESTS_CACHE` names another cache folder.
What can't be installed skips the test, and fails it where `CI` is `true`.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import platformdirs
import pytest

INSTALL_TIMEOUT = 900.0
NODE = "node@24"
"""The conformance tool and the Inspector need a newer Node than many machines have."""


def npm(*packages: str) -> Path:
    """The `node_modules` folder that has exactly these packages and what they need."""
    return _installed("npm", packages, _npm_install) / "node_modules"


def node() -> Path:
    """A Node that runs what `npm` installs."""
    return npm(NODE) / ".bin" / "node"


def venv(*requirements: str) -> Path:
    """The `bin` folder of an environment that has exactly these packages and what they need."""
    return _installed("venv", requirements, _venv_install) / "bin"


@functools.cache
def _installed(
    kind: str, wanted: Sequence[str], install: Callable[[Path, Sequence[str]], None]
) -> Path:
    """The folder of an installation."""
    folder = _cache() / kind / _slug(kind, wanted)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            draft = folder.with_suffix(".draft")
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            install(draft, wanted)
            draft.rename(folder)
    return folder


def _cache() -> Path:
    named = os.environ.get("MCPCP_TESTS_CACHE")
    return Path(named) if named else Path(platformdirs.user_cache_dir("mcpcp-tests"))


def _slug(kind: str, wanted: Sequence[str]) -> str:
    """Readable, and another one for each list; a new Python needs new environments."""
    exact = repr((kind, wanted, sys.version_info[:2] if kind == "venv" else ()))
    name = re.sub(r"[^a-z0-9.]+", "-", wanted[0].lower()).strip("-").replace(".", "_")
    return f"{name}-{hashlib.sha256(exact.encode()).hexdigest()[:8]}"


def _npm_install(folder: Path, packages: Sequence[str]) -> None:
    program = shutil.which("npm")
    if program is None:
        _give_up("npm is not installed")
    (folder / "package.json").write_text('{"private": true}')
    _run(
        [program, "install", "--no-audit", "--no-fund", "--loglevel=error", *packages],
        folder,
    )


def _venv_install(folder: Path, requirements: Sequence[str]) -> None:
    _run([sys.executable, "-m", "venv", str(folder)], folder)
    _run([str(folder / "bin" / "python"), "-m", "pip", "install", "-q", *requirements], folder)
    _rewrite_launchers(folder)


def _rewrite_launchers(folder: Path) -> None:
    """Have the environment's programs name their interpreter where it will be: it is moved yet."""
    here, there = str(folder).encode(), str(folder.with_suffix("")).encode()
    for program in (folder / "bin").iterdir():
        if not program.is_symlink() and here in (text := program.read_bytes()):
            program.write_bytes(text.replace(here, there))


def _run(command: Sequence[str], folder: Path) -> None:
    what = " ".join([Path(command[0]).name, *command[1:]])
    try:
        result = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        _give_up(f"took longer than {INSTALL_TIMEOUT:.0f} s: {what}")
    if result.returncode:
        _give_up(f"failed: {what}\n{(result.stderr or result.stdout)[-1000:]}")


def _give_up(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
