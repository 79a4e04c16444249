"""Where config and runtime folder are."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcpcp.config import PROJECT, find_config, runtime_dir
from mcpcp.errors import ConfigError, FleetError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="unix modes and owners")


@pytest.fixture
def run() -> Iterator[Path]:
    """A short folder: pytest's own are too long for sockets."""
    with tempfile.TemporaryDirectory(prefix="mr") as folder:
        yield Path(folder)


def test_the_config_is_found_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("given", "env")
    given, env = (tmp_path / f"{name}.json" for name in names)
    for path in (given, env):
        path.write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert find_config(None, {}) == PROJECT / "mcpcp.json"
    (tmp_path / "mcpcp.json").write_text("{}")
    assert find_config(None, {}) == (tmp_path / "mcpcp.json").resolve()
    assert find_config(None, {"MCPCP_CONFIG": str(env)}) == env.resolve()
    assert find_config(given, {"MCPCP_CONFIG": str(env)}) == given.resolve()


def test_a_config_that_is_named_and_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.json: no such file \(--config names it\)"):
        find_config(tmp_path / "gone.json", {})
    with pytest.raises(ConfigError, match="MCPCP_CONFIG names it"):
        find_config(None, {"MCPCP_CONFIG": str(tmp_path / "gone.json")})


def test_a_runtime_folder_is_private_and_the_same_for_one_config(run: Path, tmp_path: Path) -> None:
    env = {"XDG_RUNTIME_DIR": str(run)}
    folder = runtime_dir(tmp_path / "mcpcp.json", env)
    assert folder.parent == run / "mcpcp"
    assert len(folder.name) == 12
    assert [stat.S_IMODE(f.stat().st_mode) for f in (folder, folder.parent)] == [0o700, 0o700]
    (tmp_path / "link.json").symlink_to(tmp_path / "mcpcp.json")
    assert runtime_dir(tmp_path / "link.json", env) == folder
    assert runtime_dir(tmp_path / "other.json", env) != folder
    assert len(str(folder)) < 90


def test_a_runtime_folder_that_others_could_enter_is_closed(run: Path, tmp_path: Path) -> None:
    env = {"XDG_RUNTIME_DIR": str(run)}
    folder = runtime_dir(tmp_path / "mcpcp.json", env)
    folder.chmod(0o777)
    assert stat.S_IMODE(runtime_dir(tmp_path / "mcpcp.json", env).stat().st_mode) == 0o700


def test_a_link_in_the_runtime_folders_place_is_refused(run: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (run / "mcpcp").symlink_to(target)
    with pytest.raises(FleetError, match="somebody else made it"):
        runtime_dir(tmp_path / "mcpcp.json", {"XDG_RUNTIME_DIR": str(run)})
    assert list(target.iterdir()) == []


@pytest.mark.skipif(
    sys.platform == "win32" or os.getuid() != 0, reason="needs another user's folder"
)
def test_another_users_folder_is_refused(run: Path, tmp_path: Path) -> None:
    (run / "mcpcp").mkdir()
    if sys.platform != "win32":
        os.chown(run / "mcpcp", 12345, 12345)
    with pytest.raises(FleetError, match="somebody else made it"):
        runtime_dir(tmp_path / "mcpcp.json", {"XDG_RUNTIME_DIR": str(run)})


def test_a_runtime_folder_is_found_without_any_variable(tmp_path: Path) -> None:
    folder = runtime_dir(tmp_path / "mcpcp.json", {})
    assert folder.is_dir()
    folder.rmdir()
