"""What the tests of `servers/` may ask for."""

from __future__ import annotations

import os

import anyio
import pytest

from servers.sandboxing.outcome import Limits, SandboxBroken
from tests.engine import absent, docker_engine, own_engine

__all__ = ["bwrap", "docker_engine", "own_engine"]

if os.name == "posix":
    from servers.sandboxing import bubblewrap, cgroup


@pytest.fixture(scope="session")
def bwrap() -> bubblewrap.Bubblewrap:
    """bubblewrap with the first Python that it can show to a sandbox."""
    path = bubblewrap.find_bwrap()
    if path is None:
        absent("bubblewrap")
    groups = cgroup.find()
    for interpreter in bubblewrap.interpreters():
        backend = bubblewrap.Bubblewrap(path or "", interpreter, groups)
        try:
            anyio.run(backend.run, "1", Limits())
        except SandboxBroken:
            continue
        return backend
    absent("a bubblewrap that works")
    raise AssertionError
