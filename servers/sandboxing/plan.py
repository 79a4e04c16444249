"""What `inside.maker` is told once, before it makes sandboxes: the same under both backends."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from servers.sandboxing import seccomp
from servers.sandboxing.conversation import SHOWN
from servers.sandboxing.outcome import Limits

ALL_PACKAGES = "/run/packages"
"""Where the maker sees the folder of all package folders; a sandbox finds it covered."""

ENVIRONMENT = {
    "HOME": "/work",
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONDONTWRITEBYTECODE": "1",
    "XDG_CACHE_HOME": "/tmp/cache",  # noqa: S108 - the sandbox's own
    "MPLCONFIGDIR": "/tmp/matplotlib",  # noqa: S108
    # a sandbox has one processor: numeric libraries would start a thread for each of the host's
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
"""What code finds, whatever its sandbox is made by."""


def plan(
    imports: Sequence[str],
    *,
    paths: Sequence[str] = (),
    shelf: bool = False,
    machine: str | None = None,
) -> dict[str, Any]:
    """`paths` go on sys.path; `shelf`: it has ALL_PACKAGES; `machine`: its processor, if not ours.

    Raises KeyError for a processor that we have no filter for.
    """
    return {
        "filter": base64.b64encode(seccomp.bpf(machine)).decode(),
        "imports": list(imports),
        "paths": list(paths),
        "packages": {"shown": SHOWN, "all": ALL_PACKAGES} if shelf else {},
    }


def mounts(limits: Limits) -> dict[str, str]:
    """The file systems in memory that a sandbox may write to: options by path."""
    return {
        "/work": f"size={limits.disk},nr_inodes={limits.inodes},mode=0700",
        "/tmp": f"size={limits.scratch},nr_inodes={limits.inodes},mode=1777",  # noqa: S108
        "/dev/shm": f"size={limits.scratch},nr_inodes={limits.inodes},mode=1777",  # noqa: S108
    }
