"""What is brought out of /work, after everything that could still change it is dead.

No link is followed, nothing but regular files is opened, no file is opened that could block, and
count, depth, size and time are bounded. What is left out is said.
"""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator

from servers.sandboxing.inside import frames

Known = dict[str, tuple[int, ...]]
"""Files by path, and what changes with each write: the code can't set a file's change time."""

assert sys.platform == "linux"  # noqa: S101 - tells mypy; in a sandbox it is always so

_SECONDS = 60.0
_REASONS = 20
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Collection:
    """One look at a tree; `limits` has count, depth, size (of one) and total (of all), in bytes."""

    def __init__(self, root: str, limits: dict[str, int]) -> None:
        self._root = root
        self._limits = limits
        self._left = limits["total"]
        self._count = 0
        self._until = time.monotonic() + _SECONDS
        self.skipped: list[str] = []

    def send(self, known: Known, write: Callable[[bytes], None]) -> None:
        """Frames for what is new, changed or gone since `known`."""
        for path, folder, name in self._files(self._root, None, "", 1):
            self._send_file(path, folder, name, known, write)
        for path in known:
            if not _is_file(os.path.join(self._root, path)):
                write(frames.encode(frames.GONE, path.encode()))

    def _send_file(
        self, path: str, folder: int, name: str, known: Known, write: Callable[[bytes], None]
    ) -> None:
        try:
            descriptor = os.open(name, _OPEN, dir_fd=folder)
        except OSError as e:
            self._skip(path, f"it can't be read: {e.strerror}")
            return
        try:
            found = os.fstat(descriptor)
            if known.get(path) == identity(found) or not stat.S_ISREG(found.st_mode):
                return
            content = self._read(path, descriptor, found.st_size)
            if content is not None:
                for frame in frames.encode_file(json.dumps({"path": path}).encode(), content):
                    write(frame)
        finally:
            os.close(descriptor)

    def _read(self, path: str, descriptor: int, size: int) -> bytes | None:
        if self._count >= self._limits["count"]:
            self._skip(path, f"more than {self._limits['count']} files")
        elif size > self._limits["size"]:
            self._skip(path, f"{size} bytes are more than {self._limits['size']}")
        elif size > self._left:
            self._skip(path, f"all files together are more than {self._limits['total']} bytes")
        else:
            self._count += 1
            self._left -= size
            with os.fdopen(os.dup(descriptor), "rb") as file:
                return file.read(size)
        return None

    def _files(
        self, name: str, parent: int | None, prefix: str, depth: int
    ) -> Iterator[tuple[str, int, str]]:
        """Regular files of a folder: path, the open folder that holds it, and its name there."""
        folder = self._open_folder(name, parent, prefix)
        if folder is None:
            return
        try:
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
            for entry in listed:
                yield from self._visit(entry, folder, prefix + entry.name, depth)
        finally:
            os.close(folder)

    def _open_folder(self, name: str, parent: int | None, prefix: str) -> int | None:
        try:
            return os.open(name, _OPEN | os.O_DIRECTORY, dir_fd=parent)
        except OSError as e:
            self._skip(prefix, f"it can't be read: {e.strerror}")
            return None

    def _visit(
        self, entry: os.DirEntry[str], folder: int, path: str, depth: int
    ) -> Iterator[tuple[str, int, str]]:
        if time.monotonic() > self._until:
            self._skip(path, "there was no time for all files")
        elif not _is_text(path):
            self._skip(path, "its name is not valid UTF-8")
        elif entry.is_dir(follow_symlinks=False):
            if depth >= self._limits["depth"]:
                self._skip(path, f"it lies deeper than {self._limits['depth']} folders")
            else:
                yield from self._files(entry.name, folder, path + "/", depth + 1)
        elif entry.is_file(follow_symlinks=False):
            yield path, folder, entry.name
        else:
            self._skip(path, "it is no regular file")

    def _skip(self, path: str, why: str) -> None:
        if len(self.skipped) < _REASONS:
            self.skipped.append(f"{path!a}: {why}")
        elif len(self.skipped) == _REASONS:
            self.skipped.append("and more")


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def identity(found: os.stat_result) -> tuple[int, ...]:
    """What tells an unchanged file from one that was written or replaced."""
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def unpack(root: str, path: str, content: bytes | bytearray) -> tuple[int, ...]:
    """Write a file of the session into a fresh tree."""
    place = os.path.join(root, path)
    os.makedirs(os.path.dirname(place), exist_ok=True)
    with open(place, "xb") as file:
        file.write(content)
    # the clock of a file system is coarse: a write right after this must show
    long_ago = time.time() - 10
    os.utime(place, (long_ago, long_ago))
    return identity(os.stat(place))
