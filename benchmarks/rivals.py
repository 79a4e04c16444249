"""Other gateways, installed from the indexes on demand into a cache, each apart from the others."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import platformdirs

from tests.fleet import PROJECT

CACHE: Final = platformdirs.user_cache_path("mcpcp-benchmarks")
_INSTALL_WITHIN: Final = 240.0
_FASTMCP: Final = """
import sys
from fastmcp import FastMCP
try:
    from fastmcp.server import create_proxy
except ImportError:
    create_proxy = FastMCP.as_proxy
port, *urls = sys.argv[1:]
servers = {f"mcp{n}": {"url": u, "transport": "http"} for n, u in enumerate(urls, 1)}
create_proxy({"mcpServers": servers}, name="proxy").run(
    transport="http", host="127.0.0.1", port=int(port), path="/mcp",
    show_banner=False, log_level="ERROR",
)
"""

Command = Callable[[Path, int, Sequence[str], Sequence[str]], list[str]]


@dataclass(frozen=True)
class Rival:
    """How one is installed, and started on a port before these urls or this stdio command."""

    name: str
    index: Literal["pypi", "npm"]
    package: str
    program: str
    start: Command
    prefixes: Literal["never", "with several"] = "never"

    @property
    def folder(self) -> Path:
        """Its own environment."""
        return CACHE / self.index / self.package

    @property
    def binary(self) -> Path:
        """What is run."""
        if self.index == "npm":
            return self.folder / "node_modules" / ".bin" / self.program
        return self.folder / "bin" / self.program

    def command(self, port: int, urls: Sequence[str], stdio: Sequence[str]) -> list[str]:
        """The command line."""
        return self.start(self.binary, port, urls, stdio)

    def prefix(self, servers: int) -> str:
        """What it puts before the first server's tools."""
        return "mcp1_" if self.prefixes == "with several" and servers > 1 else ""

    def install(self) -> str:
        """Install it where it is not yet; why that can't be done, if so."""
        if self.binary.exists():
            return ""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            for command in self._installers():
                subprocess.run(command, check=True, capture_output=True, timeout=_INSTALL_WITHIN)
        except (OSError, subprocess.SubprocessError) as error:
            shutil.rmtree(self.folder, ignore_errors=True)
            return str(error)
        return "" if self.binary.exists() else f"{self.package} has no {self.program}"

    def _installers(self) -> list[list[str]]:
        if self.index == "npm":
            return [["npm", "install", "--no-audit", "--prefix", str(self.folder), self.package]]
        python = str(self.folder / "bin" / "python")
        return [
            [sys.executable, "-m", "venv", str(self.folder)],
            [python, "-m", "pip", "install", "--quiet", self.package],
        ]


def _mcp_proxy(binary: Path, port: int, urls: Sequence[str], stdio: Sequence[str]) -> list[str]:
    flags = ["--host", "127.0.0.1", "--port", str(port), "--cwd", str(PROJECT)]
    return [str(binary), *flags, "--pass-environment", "--", *stdio]


def _npm_mcp_proxy(binary: Path, port: int, urls: Sequence[str], stdio: Sequence[str]) -> list[str]:
    return [str(binary), "--host", "127.0.0.1", "--port", str(port), "--", *stdio]


def _supergateway(binary: Path, port: int, urls: Sequence[str], stdio: Sequence[str]) -> list[str]:
    flags = ["--outputTransport", "streamableHttp", "--stateful", "--logLevel", "none"]
    return [str(binary), "--stdio", " ".join(stdio), *flags, "--port", str(port)]


def _fastmcp(binary: Path, port: int, urls: Sequence[str], stdio: Sequence[str]) -> list[str]:
    return [str(binary.with_name("python")), "-c", _FASTMCP, str(port), *urls]


RIVALS: Final = (
    Rival("mcp-proxy (PyPI)", "pypi", "mcp-proxy", "mcp-proxy", _mcp_proxy),
    Rival("mcp-proxy (npm)", "npm", "mcp-proxy", "mcp-proxy", _npm_mcp_proxy),
    Rival("supergateway (npm)", "npm", "supergateway", "supergateway", _supergateway),
    Rival("FastMCP proxy", "pypi", "fastmcp", "fastmcp", _fastmcp, "with several"),
)
