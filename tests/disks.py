"""A real file system that is small, for tests of what happens when it is full or read-only."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pytest

from tests.engine import absent

PAGE = 4096


@dataclass(frozen=True)
class Disk:
    """A file system in memory; what tests put on it lies in `root`."""

    root: Path

    @property
    def _filler(self) -> Path:
        return self.root / "filler"

    @contextmanager
    def full(self, pages: int = 0) -> Iterator[None]:
        """With room for so many pages only."""
        with self._filler.open("wb", buffering=0) as filler:
            with suppress(OSError):
                while True:
                    filler.write(bytes(PAGE))
            filler.truncate(max(filler.tell() - pages * PAGE, 0))
        try:
            yield
        finally:
            self._filler.unlink()

    @contextmanager
    def crowded(self, files: int = 0) -> Iterator[None]:
        """With room for so many files and folders only, in a folder of their own."""
        self._crowd.mkdir()
        self.crowd()
        for path in islice(self._crowd.iterdir(), files):
            path.unlink()
        try:
            yield
        finally:
            for path in self._crowd.iterdir():
                path.unlink()
            self._crowd.rmdir()

    def crowd(self) -> None:
        """While it is crowded: take what room has become free."""
        with suppress(OSError):
            while True:
                (self._crowd / secrets.token_hex(8)).touch()

    @property
    def _crowd(self) -> Path:
        return self.root / "crowd"

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """As a kernel makes it that found an error on it."""
        self._remount("ro")
        try:
            yield
        finally:
            self._remount("rw")

    def _remount(self, how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", self.root], check=True)


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Disk]:
    """A file system of its own at `folder`, with mount's `options`."""
    if sys.platform != "linux" or os.geteuid() != 0:
        absent("Linux, and root to mount a small file system")
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "small", folder], check=True)
    try:
        yield Disk(folder)
    finally:
        # lazily: a sandbox that is about to end may still hold it
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Four megabytes and 512 files."""
    with small_disk(tmp_path / "disk", "size=4m,nr_inodes=512,mode=0755") as made:
        yield made
