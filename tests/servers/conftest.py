"""What the tests of `servers/` may ask for."""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import pytest

from servers.sandboxing.candidates import candidates
from servers.sandboxing.outcome import SandboxBroken
from servers.sandboxing.settings import Settings
from tests.engine import absent, docker_engine, empty_engine, own_engine
from tests.servers.sandboxing.images import sandbox_image
from tests.servers.sandboxing.runner import Runner

__all__ = ["bwrap", "docker_engine", "empty_engine", "own_engine", "sandbox_image"]


@pytest.fixture(scope="session")
def bwrap() -> Iterator[Runner]:
    """bubblewrap as the servers would use it: with the first candidate that comes up."""
    for backend in candidates(Settings(backend="bubblewrap")):
        runner = Runner(backend)
        try:
            anyio.run(runner.run, "1")
        except SandboxBroken:
            continue
        yield runner
        anyio.run(backend.close)
        return
    absent("a bubblewrap that works")
