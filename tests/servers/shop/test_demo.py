"""The example shop, filled as a newcomer does it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from servers.shop import products
from servers.shop.demo import GOODS
from servers.shop.marks import new_id
from servers.shop.store import open_store
from tests.ports import reserve
from tests.shop import PATIENCE, Database

COMMAND = [sys.executable, "-m", "servers.shop.demo"]


def fill(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MONGODB_")}
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        env={**clean, **env},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.anyio
async def test_the_shop_of_the_folder_s_settings_is_filled_once(
    shared_database: Database, tmp_path: Path
) -> None:
    name = new_id("test")
    (tmp_path / ".env").write_text(f"MONGODB_URI={shared_database.uri}\nMONGODB_DATABASE={name}\n")
    for added in (len(GOODS), 0):
        done = fill(tmp_path)
        assert done.stdout == f"added {added} of {len(GOODS)} example products\n", done.stderr
    async with open_store(shared_database.uri, name, PATIENCE) as store:
        found, more = await products.page(store, None, "name", 1)
    assert (len(found), more) == (len(GOODS), False)


def test_a_shop_that_is_not_there_is_told_with_what_to_do(tmp_path: Path) -> None:
    with reserve() as port:
        done = fill(tmp_path, MONGODB_URI=f"mongodb://127.0.0.1:{port}")
    assert done.returncode == 1
    assert "launch_servers.py" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_needs_no_shop_and_says_which_one_is_filled(tmp_path: Path) -> None:
    with reserve() as port:
        done = fill(tmp_path, "--help", MONGODB_URI=f"mongodb://127.0.0.1:{port}")
    assert done.returncode == 0
    assert "MONGODB_URI" in done.stdout
