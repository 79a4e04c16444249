"""Notices that the config file has changed, however it was written."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final, TypeAlias

INTERVAL: Final = 0.5
SETTLE: Final = 0.1

Stamp: TypeAlias = tuple[tuple[int, int, int] | None, ...]


class FileWatch:
    """Compares what `stat` says of some files with what it said before."""

    def __init__(self, *paths: Path) -> None:
        self._paths = paths
        self._stamp = self._look()

    async def changed(self) -> None:
        """Return after the next change, once the files have stayed the same for a moment."""
        while (now := self._look()) == self._stamp:  # noqa: ASYNC110 (no event everywhere)
            await asyncio.sleep(INTERVAL)
        while True:
            await asyncio.sleep(SETTLE)
            if (later := self._look()) == now:
                break
            now = later
        self._stamp = now

    def _look(self) -> Stamp:
        return tuple(map(_stamp, self._paths))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        info = path.stat()
    except OSError:
        return None
    return (info.st_mtime_ns, info.st_size, info.st_ino)
