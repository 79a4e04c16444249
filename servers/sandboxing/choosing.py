"""Which image an engine's sandboxes are made of, and why none may be.

Above: `candidates`. Below: `pinning`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import requests
from docker import DockerClient
from docker.errors import DockerException, ImageNotFound

from servers.docker_policy.engine import Engine, EngineAway
from servers.sandboxing import pinning
from servers.sandboxing.backend import Cell
from servers.sandboxing.outcome import Limits, SandboxBroken
from servers.sandboxing.pinning import Pin
from servers.sandboxing.settings import USUAL_IMAGES, Settings


class Unusable:
    """A backend that is there and makes no sandbox, for a reason that people have to know."""

    isolation: ClassVar[Mapping[str, str]] = {}
    late_packages = False
    most_warm = 0

    def __init__(self, name: str, why: str) -> None:
        self.name = name
        self.why = why

    async def make(self, limits: Limits, packages: Sequence[Path] = ()) -> Cell:
        """Raises SandboxBroken."""
        raise SandboxBroken(self.why)

    async def absence(self) -> str | None:
        """What is missing."""
        return self.why

    async def trim(self) -> None:
        """It holds nothing."""

    async def close(self) -> None:
        """It holds nothing."""


def pin_of(settings: Settings) -> Pin | None:
    """The pin that decides which image is used; raises BadPin."""
    pin = pinning.read(settings.data)
    if pin is None or not pinning.concerns(pin, settings.images, USUAL_IMAGES):
        return None
    return pin


def wanted(settings: Settings, pin: Pin | None) -> tuple[str, ...]:
    """The images to look for, as an engine names them: what is pinned, and then nothing else."""
    return settings.images if pin is None else (pin.reference,)


def why_none(settings: Settings, pin: Pin | None) -> str | None:
    """Why an engine that answers has no image for sandboxes; None where none answers. Blocks."""
    engine = Engine()
    try:
        client = engine.client()
        if pin is None:
            names = " or ".join(settings.images)
            return f"the engine has no image {names}: `mcpcp sandbox pull` gets one"
        return _why_not_pinned(client, pin)
    except (EngineAway, DockerException, requests.RequestException):
        return None
    finally:
        engine.close()


def _why_not_pinned(client: DockerClient, pin: Pin) -> str:
    again = f"`mcpcp sandbox pull --image {pin.reference}` gets it again"
    with suppress(ImageNotFound):
        client.images.get(pin.image)
        return (
            f"{pin.image} in the engine is another image than the pinned one ({pin.digest}), so it"
            f" is not used: {again}, `mcpcp sandbox pull` asks for the one that has the name now"
        )
    return f"the engine has lost the pinned image {pin.reference}: {again}"
