"""Paths of files that programs and agents name: relative, harmless, bounded."""

from __future__ import annotations

from servers.sandboxing.text import sanitize

_LONGEST_NAME = 200
_LONGEST_PATH = 1024


class BadPath(ValueError):
    """The path is not one that a workspace may hold; the message says why."""


def checked(path: str, depth: int) -> str:
    """`path` as it came, if it is relative and harmless; raises BadPath.

    `depth` is how many folders and the file's name there may be.
    """
    parts = path.split("/")
    if not path or any(part in ("", ".", "..") for part in parts):
        raise BadPath("a path is relative to the workspace, without `.`, `..` or a leading /")
    if len(parts) > depth:
        raise BadPath(f"a path has at most {depth} parts")
    if sanitize(path) != path or any(char in path for char in "\\\n\t"):
        raise BadPath("a path has no backslash and no control or invisible character")
    if len(path.encode()) > _LONGEST_PATH or any(len(p.encode()) > _LONGEST_NAME for p in parts):
        raise BadPath("the path is too long")
    return path
