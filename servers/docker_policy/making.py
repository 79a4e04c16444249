"""Making a container, starting it and seeing it end; all of it blocks."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

from docker import DockerClient
from docker.errors import APIError, ImageNotFound

from servers.docker_policy import grammar, hardening, images, lifeline, ownership, show
from servers.docker_policy.answers import Answer
from servers.docker_policy.hardening import Envelope
from servers.docker_policy.looking import output
from servers.docker_policy.wire import Wire
from servers.docker_policy.words import Refused

_ENGINE_SECONDS = 30
_NO_PROGRAM = 127
_LEAST_MEMORY = 6 * hardening.MIB


def lowered(envelope: Envelope, command: grammar.Run) -> Envelope:
    """The envelope with what the command asks for; more than there is, is refused."""
    asked = {"memory": command.memory, "cpus": command.cpus, "processes": command.processes}
    for key, value in asked.items():
        most = getattr(envelope, key)
        if value is not None and not 0 < value <= most:
            raise Refused(f"docker run: {key}: at most {most} is given, not {value}")
    if command.memory is not None and command.memory < _LEAST_MEMORY:
        raise Refused("docker run: memory: the engine needs 6m at least")
    return replace(
        envelope,
        memory=command.memory or envelope.memory,
        cpus=command.cpus or envelope.cpus,
        processes=command.processes or envelope.processes,
    )


def check_room(client: DockerClient, agent: str, command: grammar.Run, limit: int) -> None:
    mine = ownership.of_agent(client, agent)
    if len(mine) >= limit:
        raise Refused(
            f"docker run: there are {len(mine)} containers already: remove some (docker rm)"
        )
    if command.name is not None and any(show.name_of(c) == command.name for c in mine):
        raise Refused(f"docker run: the name {command.name} is in use by a container of yours")


def create(client: DockerClient, command: grammar.Run, agent: str, envelope: Envelope) -> str:
    """A container as it must be, or none: what the engine made is looked at before it starts."""
    image = _image(client, command.image)
    config = _config(command, image, agent, envelope)
    made = client.api.create_container_from_config(config)  # type: ignore[no-untyped-call]
    container = str(made["Id"])
    try:
        found = hardening.deviations(client.api.inspect_container(container), envelope)
    except BaseException:
        ownership.remove(client, container)
        raise
    if found:
        ownership.remove(client, container)
        raise Refused(f"docker run: the engine made another container: {', '.join(found)}")
    return container


def _image(client: DockerClient, name: str) -> dict[str, Any]:
    missing = Refused(
        f"docker run: the image {name} is not on this machine, and none is pulled on the way:"
        f" ask the operator for `docker pull {name}`; docker images lists what is here"
    )
    try:
        image: dict[str, Any] = client.api.inspect_image(name)  # type: ignore[no-untyped-call]
    except ImageNotFound:
        raise missing from None
    if not images.is_named(name, [*(image["RepoTags"] or []), *(image["RepoDigests"] or [])]):
        raise missing
    return image


def _config(
    command: grammar.Run, image: dict[str, Any], agent: str, envelope: Envelope
) -> dict[str, Any]:
    """The container as the engine's API takes it."""
    own = image["Config"] or {}
    words = lifeline.command_of(own, command.entrypoint, command.arguments)
    if not words:
        raise Refused(f"docker run: {command.image} has no command of its own: give one")
    bounded = hardening.tmpfs_options(envelope.tmpfs)
    places = ["/tmp", *(own.get("Volumes") or {})]  # noqa: S108 - the container's own
    host = hardening.host_config(envelope, dict.fromkeys(places, bounded))
    return {
        "Image": image["Id"],
        "Entrypoint": lifeline.around(words),
        "Cmd": [],
        "User": hardening.USER,
        "WorkingDir": command.workdir or own.get("WorkingDir") or "/",
        "Env": [f"{name}={value}" for name, value in command.environment],
        "Labels": ownership.labels(agent, command.image, command.name),
        "OpenStdin": True,
        "StdinOnce": True,
        "AttachStdin": True,
        "NetworkDisabled": True,
        "HostConfig": {**host, "AutoRemove": command.detach and command.remove},
    }


def started(client: DockerClient, container: str) -> Wire:
    """Holds the lifeline before it starts."""
    wire = Wire(client, container, output=False)
    try:
        client.api.start(container)
    except BaseException:
        wire.close()
        raise
    return wire


def kill(client: DockerClient, container: str) -> None:
    with suppress(APIError):  # it has ended by itself
        client.api.kill(container)


def ended(client: DockerClient, container: str) -> Answer:
    kill(client, container)
    client.api.wait(container, timeout=_ENGINE_SECONDS)
    state = client.api.inspect_container(container)["State"]
    stdout, stderr = output(client, container)
    code = int(state["ExitCode"])
    if code == _NO_PROGRAM and lifeline.is_missing(stderr):
        raise Refused(
            f"docker run: the image has no {lifeline.SHELL}, which a container needs here to end"
            " when this server does"
        )
    if state.get("OOMKilled"):
        stderr += "the container needed more memory than it may have\n"
    return Answer("error" if code else "ok", stdout=stdout, stderr=stderr, exit_code=code)
