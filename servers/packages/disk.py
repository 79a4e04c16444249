"""What the disk refuses, in words that say what to do; nothing of the machine's paths in them.

Above: `store` and `packages`, which write; `uv`, whose installer writes for them.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from servers.packages.errors import DiskRefuses

CACHE: Final = "SANDBOX_DATA"
"""The setting that says where environments are."""
RECORDS: Final = "the data folder (data_dir)"
"""Where it is noted what agents have installed."""

_ROOM = "the operator has to make room where {where} is"
_RIGHTS = "the operator has to let the server's user write where {where} is"
_LOOK = "the operator has to look where {where} is"
_REASONS: Final = {
    errno.ENOSPC: ("is full", _ROOM),
    errno.EDQUOT: ("has no room left for the server's user (quota)", _ROOM),
    errno.EROFS: ("is read-only", "the operator has to make it writable where {where} is"),
    errno.EACCES: ("may not be written to", _RIGHTS),
    errno.EPERM: ("may not be written to", _RIGHTS),
}
_SAID = re.compile(r"\(os error (\d+)\)")


@contextmanager
def telling(where: str) -> Iterator[None]:
    """Raises DiskRefuses for an OSError; `where` is CACHE or RECORDS."""
    try:
        yield
    except OSError as e:
        raise refusal(e.errno or errno.EIO, where) from e


def refusal(number: int, where: str) -> DiskRefuses:
    """The answer to an errno of the disk's."""
    usual = (
        f"does not take it ({os.strerror(number)})",
        "the operator has to look where {where} is",
    )
    state, remedy = _REASONS.get(number, usual)
    return DiskRefuses(
        f"the server's disk {state}: nothing was installed, and what is installed stays as it is."
        f" Try again later; {remedy.format(where=where)}"
    )


def fullness(complaint: str) -> int | None:
    """The errno by which a program of Rust's says that the disk is full; None where it does not.

    Other errors can be a package's doing, that would like to write where it may not.
    """
    numbers = map(int, _SAID.findall(complaint))
    return next((n for n in numbers if n in (errno.ENOSPC, errno.EDQUOT)), None)


def remove(path: Path) -> bool:
    """Remove a file if it is there; False where the disk does not even let go of one."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True
