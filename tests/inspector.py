"""The MCP Inspector's CLI, installed from npm once a machine into a cache folder."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import installed

PACKAGE = "@modelcontextprotocol/inspector"
VERSION = "2.12.0"
RUN_TIMEOUT = 60.0


@dataclass(frozen=True)
class Inspector:
    """`ask` runs it once; `home` is where it may keep files."""

    launcher: Path
    home: Path

    def ask(self, *arguments: str) -> Any:
        """The result that it prints; a failure shows what it said."""
        result = subprocess.run(
            [installed.node(), self.launcher, "--cli", *arguments],
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT,
            env={"PATH": os.environ["PATH"], "HOME": str(self.home)},
            cwd=self.home,
        )
        assert result.returncode == 0, result.stderr or result.stdout
        return json.loads(result.stdout)


def install() -> Path:
    """The program; skips, on CI fails, where npm can't bring it."""
    modules = installed.npm(f"{PACKAGE}@{VERSION}")
    return modules / PACKAGE / "clients" / "launcher" / "build" / "index.js"
