"""What the tests of `servers/` may ask for."""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import pytest

from servers.sandboxing import engines
from servers.sandboxing.backend import Backend
from servers.sandboxing.candidates import candidates
from servers.sandboxing.containers import Containers
from servers.sandboxing.kept import KeptContainers
from servers.sandboxing.outcome import SandboxBroken
from servers.sandboxing.settings import Settings
from tests.engine import absent, docker_engine, empty_engine, own_engine
from tests.servers.sandboxing.images import sandbox_image
from tests.servers.sandboxing.runner import Runner

FAST = (("bwrap", "bwrap"), ("kept", "docker"))
IMPORTS = ("numpy", "numpy.random")

__all__ = ["bwrap", "docker_engine", "empty_engine", "own_engine", "sandbox_image"]


@pytest.fixture(params=[pytest.param(n, marks=getattr(pytest.mark, m)) for n, m in FAST])
def runner(request: pytest.FixtureRequest) -> Runner:
    """Each way that servers use where it can be had: what holds code in has to do so in both."""
    found: Runner = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="session")
def kept(sandbox_image: tuple[str, str]) -> Iterator[Runner]:
    """Containers that are kept, as the servers would use them."""
    yield from of_engine(sandbox_image, KeptContainers)


@pytest.fixture(scope="session")
def one_each(sandbox_image: tuple[str, str]) -> Iterator[Runner]:
    """A container for each call, as the servers would use them where none can be kept."""
    yield from of_engine(sandbox_image, Containers)


def of_engine(sandbox_image: tuple[str, str], kind: type[Backend]) -> Iterator[Runner]:
    host, image = sandbox_image
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", host)
        [backend] = [b for b in engines.find([image], imports=IMPORTS) if isinstance(b, kind)]
        yield Runner(backend)
        anyio.run(backend.close)


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
