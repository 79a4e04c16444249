"""A container from its making to its start, whoever it is for; all of it blocks.

Above: `making` for agents, and the sandbox's Docker backend. Below: `hardening` says what a
container is made with, `wire` holds its standard streams.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from docker import DockerClient
from docker.errors import APIError

from servers.docker_policy import hardening, ownership
from servers.docker_policy.wire import Wire

_ENGINE_SECONDS = 120


class Otherwise(Exception):
    """The engine made another container than was asked for; it was removed, and never ran."""


def config(image: str, entrypoint: list[str], host: Mapping[str, Any]) -> dict[str, Any]:
    """What every container has in common, as the engine's API takes it, with its HostConfig.

    Its standard input is its lifeline: whoever attaches first holds it, and its end is told.
    """
    return {
        "Image": image,
        "Entrypoint": entrypoint,
        "Cmd": [],
        "User": hardening.USER,
        "OpenStdin": True,
        "StdinOnce": True,
        "AttachStdin": True,
        "Healthcheck": {"Test": ["NONE"]},
        "NetworkDisabled": True,
        "HostConfig": dict(host),
    }


def create(client: DockerClient, asked: dict[str, Any], name: str | None = None) -> str:
    """A container as it must be, not started, or none: what was made is looked at first.

    `name` is the engine's. Raises Otherwise.
    """
    made = client.api.create_container_from_config(asked, name)  # type: ignore[no-untyped-call]
    container = str(made["Id"])
    try:
        _check(client.api.inspect_container(container), asked)
    except BaseException:
        ownership.remove(client, container)
        raise
    return container


def _check(inspected: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    found = hardening.deviations(inspected, asked)
    if found:
        raise Otherwise(f"the engine made another container: {', '.join(found)}")


def start(client: DockerClient, container: str, *, output: bool) -> Wire:
    """Start it with its lifeline in our hands; `output`: its output comes by the wire too."""
    wire = Wire(client, container, output=output)
    try:
        client.api.start(container)
    except BaseException:
        wire.close()
        raise
    return wire


def kill(client: DockerClient, container: str) -> None:
    """End it at once; one that has ended by itself is no error."""
    with suppress(APIError):
        client.api.kill(container)


def end(client: DockerClient, container: str) -> dict[str, Any]:
    """End it at once, and its last State."""
    kill(client, container)
    client.api.wait(container, timeout=_ENGINE_SECONDS)
    state: dict[str, Any] = client.api.inspect_container(container)["State"]
    return state
