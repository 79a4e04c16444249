"""How much an installation takes on disk, and whether what it left may be shown to a sandbox."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

if sys.platform == "win32":
    raise ImportError("only Unix has this")

from servers.sandboxing.outcome import MIB

_BLOCK = 512
_DEEPEST = 40
_TOO_DEEP = f"its files lie more than {_DEEPEST} folders deep"


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes on disk, entries, and how deep they lie; a file with several names counts once."""

    size: int
    files: int
    depth: int = 0

    def beyond(self, size: int, files: int) -> list[str]:
        """What is more than that, in words."""
        found = []
        if self.size > size:
            found.append(f"it takes more than {size // MIB} MB on disk")
        if self.files > files:
            found.append(f"it has more than {files} files")
        if self.depth > _DEEPEST:
            found.append(_TOO_DEEP)
        return found


def of(folder: Path) -> Usage:
    """The usage now; what vanishes meanwhile does not count."""
    seen: set[int] = set()
    size = deepest = 0
    for entry, depth in _walk(str(folder)):
        deepest = max(deepest, depth)
        try:
            found = entry.stat(follow_symlinks=False)
        except OSError:
            continue
        if found.st_ino not in seen:
            seen.add(found.st_ino)
            size += found.st_blocks * _BLOCK
    return Usage(size, len(seen), deepest)


def _walk(folder: str, depth: int = 0) -> Iterator[tuple[os.DirEntry[str], int]]:
    """Entries, and how many folders lie above each; to one that is too deep, and no further."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        yield entry, depth
        if depth <= _DEEPEST and entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path, depth + 1)


def seal(folder: Path) -> str | None:
    """Make a folder that somebody else filled ours, and read-only for others; its flaw, if any.

    Only folders and ordinary files may be in it. Nobody may write to it meanwhile.
    """
    root = os.geteuid() == 0
    if root:
        os.chown(folder, 0, 0)
    folder.chmod(0o755)
    for entry, depth in _walk(str(folder)):
        if depth > _DEEPEST:
            return _TOO_DEEP
        mode = entry.stat(follow_symlinks=False).st_mode
        if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
            return f"it has a file that is neither a folder nor an ordinary one: {entry.name!r}"
        if root:
            os.chown(entry.path, 0, 0, follow_symlinks=False)
        # no setuid; what could be run stays so
        executable = stat.S_ISDIR(mode) or mode & stat.S_IXUSR
        os.chmod(entry.path, 0o755 if executable else 0o644)  # noqa: PTH101 - no Path for each
    return None
