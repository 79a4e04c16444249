"""Sessions on a disk that is full or read-only: refused with what to do, and kept as they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from servers.sandboxing.sessions import SessionKey, SessionRefused, Sessions
from tests.disks import Disk, disk

__all__ = ["disk"]

pytestmark = pytest.mark.anyio

KEY = SessionKey("agent", "work")


async def write(sessions: Sessions, content: bytes, key: SessionKey = KEY) -> None:
    async with sessions.use(key) as workspace:
        workspace.change([("file", content)])


async def read(sessions: Sessions) -> bytes:
    async with sessions.existing(KEY) as workspace:
        return workspace.read("file")


@pytest.mark.parametrize("trouble", ["full", "crowded", "read_only"])
async def test_a_disk_that_takes_nothing_leaves_sessions_as_they_were(
    disk: Disk, trouble: str
) -> None:
    sessions = Sessions(disk.root / "sessions")
    await write(sessions, b"before")
    before = sorted(path.name for path in sessions_of(disk))
    troubles = {"full": disk.full, "crowded": disk.crowded, "read_only": disk.read_only}
    with troubles[trouble]():
        for key in (KEY, SessionKey("agent", "new"), SessionKey("else", "new")):
            with pytest.raises(SessionRefused, match="make room"):
                await write(sessions, b"after" * 1000, key)
        assert await read(sessions) == b"before"
    assert sorted(path.name for path in sessions_of(disk)) == before
    await write(sessions, b"after")
    assert await read(sessions) == b"after"


def sessions_of(disk: Disk) -> list[Path]:
    return [path for path in (disk.root / "sessions").rglob("*") if path.is_file()]
