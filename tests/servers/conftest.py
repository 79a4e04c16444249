"""What the tests of `servers/` may ask for."""

from __future__ import annotations

import os
from collections.abc import Iterator

import anyio
import pytest

from servers.sandboxing.libraries import libraries
from servers.sandboxing.outcome import SandboxBroken
from tests.engine import absent, docker_engine, own_engine
from tests.servers.sandboxing.images import sandbox_image
from tests.servers.sandboxing.runner import Runner

__all__ = ["bwrap", "docker_engine", "own_engine", "sandbox_image"]

if os.name == "posix":
    from servers.sandboxing import bubblewrap, cgroup


@pytest.fixture(scope="session")
def bwrap() -> Iterator[Runner]:
    """bubblewrap with the first Python that it can show to a sandbox."""
    path = bubblewrap.find_bwrap()
    if path is None:
        absent("bubblewrap")
    groups = cgroup.find()
    for interpreter in bubblewrap.interpreters(libraries=libraries()):
        backend = bubblewrap.Bubblewrap(
            path or "", interpreter, groups, imports=("numpy", "numpy.random")
        )
        runner = Runner(backend)
        try:
            anyio.run(runner.run, "1")
        except SandboxBroken:
            continue
        yield runner
        anyio.run(backend.close)
        return
    absent("a bubblewrap that works")
