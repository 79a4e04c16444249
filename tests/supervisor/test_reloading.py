"""The config in force: what the file said when it was last good."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from mcpcp.errors import ConfigError
from mcpcp.fleet import GATEWAY
from mcpcp.supervisor.reloading import LiveConfig
from tests.fleet import PATIENCE

pytestmark = pytest.mark.anyio


def text(*names: str) -> str:
    servers = {name: {"command": "python", "port": 21000} for name in names}
    return json.dumps({"mcpServers": servers})


def put(path: Path, text: str) -> None:
    """Replace the file, so that nobody reads half of it."""
    draft = path.with_suffix(".draft")
    draft.write_text(text)
    draft.replace(path)


async def test_what_is_changed_while_the_file_is_read_is_a_change(tmp_path: Path) -> None:
    path = tmp_path / "mcpcp.json"
    os.mkfifo(path)

    def change() -> None:
        with path.open("w") as file:  # somebody reads
            put(path, text("new"))
            file.write(text("old"))

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        tasks.create_task(asyncio.to_thread(change))
        live = await asyncio.to_thread(LiveConfig, path, None)
        assert list(live.plan) == [GATEWAY, "old"]
        assert await live.changed()
    assert list(live.plan) == [GATEWAY, "new"]


async def test_a_file_that_is_not_good_leaves_what_is_in_force_and_says_why(tmp_path: Path) -> None:
    path = tmp_path / "mcpcp.json"
    put(path, text("a", "b"))
    with pytest.raises(ConfigError):
        LiveConfig(path, None)
    put(path, text("a"))
    live = LiveConfig(path, None)
    async with asyncio.timeout(PATIENCE):
        put(path, text("a", "b"))
        assert not await live.changed()
        assert (list(live.plan), list(live.now.servers)) == ([GATEWAY, "a"], ["a"])
        assert "21000" in (live.error or "")
        put(path, text("c"))
        assert await live.changed()
    assert (list(live.plan), live.error) == ([GATEWAY, "c"], None)


async def test_only_leaves_out_what_it_does_not_name(tmp_path: Path) -> None:
    path = tmp_path / "mcpcp.json"
    put(path, text("a"))
    assert LiveConfig(path, ()).left_out == ("a",)
