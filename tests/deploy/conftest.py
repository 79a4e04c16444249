"""The image, and an engine with networks to run it on."""

from __future__ import annotations

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
