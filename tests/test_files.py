"""Files that several processes share."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

import pytest

from mcpcp.files import back_up, locked, write_atomically


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "new" / "f"
    for data in (b"one", b"two"):
        write_atomically(path, data)
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["f"]  # noqa: PTH208
    if sys.platform != "win32":
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "x").touch()
    with pytest.raises(OSError):
        write_atomically(tmp_path / "f", b"data")
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


@pytest.mark.skipif(sys.platform == "win32", reason="links")
def test_a_link_is_followed_and_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_backups_never_overwrite_each_other(tmp_path: Path) -> None:
    path = tmp_path / "f"
    contents = [b"1", b"2", b"3"]
    backups = []
    for content in contents:
        path.write_bytes(content)
        backups.append(back_up(path))
    assert [b.read_bytes() for b in backups] == contents


def _count(path: Path) -> None:
    for _ in range(50):
        with locked(path.with_suffix(".lock")):
            path.write_text(str(int(path.read_text()) + 1))


def test_a_lock_admits_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "count"
    path.write_text("0")
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        pool.map(_count, [path] * 3, chunksize=1)
    assert path.read_text() == "150"


def test_who_waits_for_a_lock_in_vain_is_told(tmp_path: Path) -> None:
    again = locked(tmp_path / "l", 0.0)
    refused = pytest.raises(TimeoutError, match="locked by another process")
    with locked(tmp_path / "l"), refused, again:
        pass
