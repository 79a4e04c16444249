"""The backends that a Docker engine offers, best first.

Above: `candidates`. Whether they hold is `selftest`'s to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import requests
from docker import DockerClient
from docker.errors import DockerException, ImageNotFound

from servers.docker_policy import ownership
from servers.docker_policy.engine import Engine, EngineAway
from servers.sandboxing import seccomp
from servers.sandboxing.backend import Backend
from servers.sandboxing.containers import Containers
from servers.sandboxing.hosted import Hosting, stronger
from servers.sandboxing.kept import KeptContainers


def find(
    images: Sequence[str],
    runtime: str = "auto",
    imports: Sequence[str] = (),
    packages: Path | None = None,
    at_once: int = 4,
) -> Iterator[Backend]:
    """Those of an engine that answers and has one of the images; blocks.

    For each runtime, containers that are kept, then one for each call. `runtime` is the one to use,
    or "auto" for each that the engine has, the strongest first.
    """
    engine = Engine()
    try:
        client = engine.client()
        ownership.sweep(client)
        image = _first(client, images)
        info = client.info()
    except (EngineAway, DockerException, requests.RequestException):
        return
    finally:
        engine.close()
    if image is None:
        return
    named = [*stronger(info.get("Runtimes", {})), None] if runtime == "auto" else [runtime]
    for name in named:
        machine = _machine(info)
        if machine is not None:
            yield KeptContainers(
                Hosting(Engine(), image, name), machine, imports, packages, at_once
            )
        yield Containers(Hosting(Engine(), image, name), imports)


def _machine(info: dict[str, Any]) -> str | None:
    """The engine's processor, which need not be ours, where there is a filter for it."""
    machine = str(info.get("Architecture"))
    return machine if machine in seccomp.MACHINES else None


def _first(client: DockerClient, images: Sequence[str]) -> str | None:
    for image in images:
        with suppress(ImageNotFound):
            client.images.get(image)
            return image
    return None
