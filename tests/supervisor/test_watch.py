import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from mcpcp.supervisor.watch import FileWatch
from tests.fleet import PATIENCE

pytestmark = pytest.mark.anyio


def rewrite(path: Path) -> None:
    path.write_text("longer than before")


def replace(path: Path) -> None:
    draft = path.with_suffix(".new")
    draft.write_text("same")
    draft.replace(path)


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("change", [rewrite, replace, remove])
async def test_a_change_is_noticed_however_it_is_made(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    path = tmp_path / "c.json"
    path.write_text("text")
    watch = FileWatch(path)
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        noticed = tasks.create_task(watch.changed())
        await asyncio.sleep(0)
        assert not noticed.done()
        change(path)


async def test_a_file_that_appears_is_a_change(tmp_path: Path) -> None:
    watch = FileWatch(tmp_path / ".env")
    (tmp_path / ".env").write_text("A=1")
    async with asyncio.timeout(PATIENCE):
        await watch.changed()


async def test_one_change_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text("text")
    watch = FileWatch(path)
    rewrite(path)
    async with asyncio.timeout(PATIENCE):
        await watch.changed()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.7):
            await watch.changed()
