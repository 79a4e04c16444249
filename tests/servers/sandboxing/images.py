"""The sandbox's own image, made by the product's script, in the engine of the tests."""

from __future__ import annotations

import fcntl

import pytest

from servers.sandboxing import image
from tests.engine import DockerEngine


@pytest.fixture(scope="session")
def sandbox_image(
    docker_engine: DockerEngine, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str]:
    """The engine's address and the image's name; made once for all workers."""
    lock = tmp_path_factory.getbasetemp().parent / "sandbox-image.lock"
    with lock.open("a") as held, docker_engine.client() as client:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not client.images.list(image.NAME):
            image.make(client)
    return docker_engine.host, image.NAME
