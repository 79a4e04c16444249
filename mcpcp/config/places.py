"""Where things are: the config file, and the runtime folder of its fleet."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from mcpcp.errors import ConfigError, FleetError

PROJECT = Path(__file__).resolve().parents[2]
"""The folder that holds the package: a checkout's top level, or site-packages."""

NAME = "mcpcp.json"
VARIABLE = "MCPCP_CONFIG"
_DARWIN_USER_TEMP_DIR = 65537


def find_config(explicit: Path | str | None, environ: Mapping[str, str] | None = None) -> Path:
    """The config file: as given, else MCPCP_CONFIG's, else ./mcpcp.json, else the project's own."""
    env = os.environ if environ is None else environ
    for given, whence in ((explicit, "--config"), (env.get(VARIABLE) or None, VARIABLE)):
        if given is not None:
            path = Path(given).expanduser()
            if not path.is_file():
                raise ConfigError(f"{path}: no such file ({whence} names it)")
            return path.resolve()
    for folder in (Path.cwd(), PROJECT):
        if (folder / NAME).is_file():
            return (folder / NAME).resolve()
    raise ConfigError(
        f"there is no {NAME} in {Path.cwd()}: make one, or name it with --config or {VARIABLE}"
    )


def process_environment() -> Mapping[str, str]:
    """The variables of this process, for those who may not read them otherwise."""
    return os.environ


def claude_desktop_config(environ: Mapping[str, str] | None = None) -> Path:
    """The file in which Claude Desktop keeps its servers on this system."""
    env = os.environ if environ is None else environ
    name = Path("Claude") / "claude_desktop_config.json"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / name
    if sys.platform == "win32":
        # The Store's edition sees its own folder in the place of APPDATA.
        packages = Path(env.get("LOCALAPPDATA") or Path.home() / "AppData/Local") / "Packages"
        for folder in packages.glob("Claude_*/LocalCache/Roaming"):
            return folder / name
        return Path(env.get("APPDATA") or Path.home() / "AppData/Roaming") / name
    return Path(env.get("XDG_CONFIG_HOME") or Path.home() / ".config") / name


def runtime_dir(config_path: Path, environ: Mapping[str, str] | None = None) -> Path:
    """The private folder for sockets and lock of this config's fleet, made where it is missing.

    It depends on the config's path, and as little as can be on the environment: MCP clients start
    servers with few variables, and must still find the fleet that a shell started. Raises
    FleetError where somebody else could have prepared the folder.
    """
    base = _runtime_base(os.environ if environ is None else environ)
    key = os.path.normcase(config_path.resolve())
    own = base / hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    for folder in (base, own):
        _make_private(folder)
    return own


def _runtime_base(env: Mapping[str, str]) -> Path:
    if sys.platform == "win32":
        return Path(env.get("LOCALAPPDATA") or tempfile.gettempdir()) / "mcpcp"
    for run in (env.get("XDG_RUNTIME_DIR"), f"/run/user/{os.getuid()}"):
        # A longer path does not fit into a unix socket's address together with a socket's name.
        if run and len(run) <= 60 and Path(run).is_absolute() and _is_own(Path(run)):
            return Path(run) / "mcpcp"
    return Path(_temporary()) / f"mcpcp-{os.getuid()}"


def _temporary() -> str:
    if sys.platform == "darwin":
        return os.confstr(_DARWIN_USER_TEMP_DIR) or tempfile.gettempdir()
    return "/tmp" if os.access("/tmp", os.W_OK) else tempfile.gettempdir()  # noqa: S108 - checked below


def _is_own(folder: Path) -> bool:
    if sys.platform == "win32":
        return True
    try:
        info = folder.stat()
    except OSError:
        return False
    return info.st_uid == os.getuid() and os.access(folder, os.W_OK)


def _make_private(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        info = folder.lstat()
    except OSError as e:
        raise FleetError(f"the runtime folder {folder} can't be made: {e.strerror}") from e
    if sys.platform == "win32":
        return  # the user's profile is private already
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid():
        raise FleetError(f"{folder} is not a folder of yours: remove it, somebody else made it")
    if info.st_mode & 0o077:
        folder.chmod(0o700)
