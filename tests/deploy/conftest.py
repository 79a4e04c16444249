"""The image, and an engine with networks to run it on."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator

import pytest

from tests.deploy.images import build_image
from tests.engine import NetworkedEngine, networked_engine, run_folder

__all__ = ["image", "networked_engine"]


@pytest.fixture(scope="session")
def image(  # the fixture that it names is the one imported
    networked_engine: NetworkedEngine, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The name of the image that the Dockerfile makes."""
    return build_image(networked_engine, run_folder(tmp_path_factory))


@pytest.fixture(autouse=True)
def _turn(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """One test at a time on the engine: a Swarm that is joined or left takes networks down."""
    if request.node.get_closest_marker("docker") is None:
        yield
        return
    with (run_folder(tmp_path_factory) / "networked.turn").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
