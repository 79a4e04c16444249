"""Free ports for tests that run at once in several workers."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Below the range from which the kernel takes the ports of outgoing connections: no client can be
# given one between the moment it was found free and the moment a server binds it.
FIRST, LAST = 20000, 32000


@contextmanager
def reserve() -> Iterator[int]:
    """A port that is free, held against every other test by a lock on a file of its own."""
    folder = Path(tempfile.gettempdir()) / f"mcpcp-test-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    while True:
        port = random.randint(FIRST, LAST)  # noqa: S311  not a secret
        descriptor = os.open(folder / str(port), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        if is_free(port):
            break
        os.close(descriptor)
    try:
        yield port
    finally:
        os.close(descriptor)


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
