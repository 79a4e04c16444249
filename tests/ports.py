"""Free ports for tests that run at once in several workers."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

# Below the range from which the kernel takes the ports of outgoing connections: no client can be
# given one between the moment it was found free and the moment a server binds it.
FIRST, LAST = 20000, 32000


@contextmanager
def reserve(count: int = 1) -> Iterator[int]:
    """The first of `count` free ports in a row, each held against every other test by a lock."""
    while True:
        first = random.randint(FIRST, LAST - count)  # noqa: S311  not a secret
        with ExitStack() as held:
            if all(_hold(port, held) for port in range(first, first + count)):
                yield first
                return


def _hold(port: int, held: ExitStack) -> bool:
    """Whether the port is free and now ours, until `held` is closed."""
    folder = Path(tempfile.gettempdir()) / f"mcpcp-test-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(folder / str(port), os.O_RDWR | os.O_CREAT, 0o600)
    held.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return is_free(port)


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
    return True
