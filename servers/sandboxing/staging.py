"""Started as root: shows another user what only root may walk to, stops being root, runs a command.

    python -I -S staging.py '{"sources": [path...], "command": [word or index of a source...],
                              "user": uid}'

bubblewrap is started as somebody else, who may not enter a folder like /root; so each source is
bound, in a mount namespace that only this process has, to a place that is open to all.
"""

from __future__ import annotations

import ctypes
import json
import os
import stat
import sys

if sys.platform != "linux":
    raise ImportError("only Linux has this")

_NEW_MOUNTS = 0x00020000
_BIND, _RECURSIVE, _PRIVATE = 4096, 16384, 1 << 18
_STAGE = "/tmp"  # noqa: S108 - covered by a mount that nobody else sees


def main() -> None:
    """Become the command."""
    plan = json.loads(sys.argv[1])
    places = stage(plan["sources"])
    os.setgroups([])
    os.setresgid(plan["user"], plan["user"], plan["user"])
    os.setresuid(plan["user"], plan["user"], plan["user"])
    words = [word if isinstance(word, str) else places[word] for word in plan["command"]]
    os.execv(words[0], words)  # noqa: S606 - no shell


def stage(sources: list[str]) -> list[str]:
    """Where each source can be reached; as it was, where we may not make mounts."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_MOUNTS) != 0:
        return sources
    _mount(libc, b"none", "/", b"", _RECURSIVE | _PRIVATE)
    # before the stage covers some of them, and of this namespace: another one's can't be bound
    descriptors = [os.open(source, os.O_PATH | os.O_CLOEXEC) for source in sources]
    _mount(libc, b"tmpfs", _STAGE, b"tmpfs", 0)
    places = [f"{_STAGE}/{number}" for number in range(len(sources))]
    for descriptor, place in zip(descriptors, places, strict=True):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):  # its path may be covered by now
            os.mkdir(place)
        else:
            os.close(os.open(place, os.O_CREAT | os.O_WRONLY))
        _mount(libc, f"/proc/self/fd/{descriptor}".encode(), place, b"", _BIND)
    os.chmod(_STAGE, 0o755)  # noqa: S103 - to walk through
    return places


def _mount(libc: ctypes.CDLL, source: bytes, target: str, kind: bytes, flags: int) -> None:
    if libc.mount(source, target.encode(), kind, ctypes.c_ulong(flags), b"mode=0755") != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount at {target}: {os.strerror(number)}")


if __name__ == "__main__":
    main()
