"""The MCP Inspector's CLI, installed from npm once a machine into a cache folder."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
import pytest

PACKAGES = ("@modelcontextprotocol/inspector@2", "node@24")
"""The Inspector needs a newer Node than many machines have; npm brings that too."""
INSTALL_TIMEOUT = 300.0
RUN_TIMEOUT = 60.0


@dataclass(frozen=True)
class Inspector:
    """`ask` runs it once; `home` is where it may keep files."""

    folder: Path
    home: Path

    def ask(self, *arguments: str) -> Any:
        """The result that it prints; a failure shows what it said."""
        launcher = "@modelcontextprotocol/inspector/clients/launcher/build/index.js"
        modules = self.folder / "node_modules"
        result = subprocess.run(
            [modules / ".bin" / "node", modules / launcher, "--cli", *arguments],
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT,
            env={"PATH": os.environ["PATH"], "HOME": str(self.home)},
            cwd=self.home,
        )
        assert result.returncode == 0, result.stderr or result.stdout
        return json.loads(result.stdout)


def install() -> Path:
    """The folder with the Inspector in it; skips, on CI fails, where npm can't bring it."""
    folder = Path(platformdirs.user_cache_dir("mcpcp-tests")) / "inspector-2"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            _install(folder)
            (folder / "complete").touch()
    return folder


def _install(folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        _give_up("npm is not installed")
        return
    shutil.rmtree(folder / "node_modules", ignore_errors=True)
    (folder / "package.json").write_text("{}")
    command = [npm, "install", "--no-audit", "--no-fund", "--loglevel=error", *PACKAGES]
    try:
        result = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        _give_up("npm install took too long")
        return
    if result.returncode:
        _give_up(f"npm install failed: {result.stderr[-500:]}")


def _give_up(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
