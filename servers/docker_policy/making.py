"""The container that `docker run` asks for, and what it came to; what takes a client blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from docker import DockerClient
from docker.errors import ImageNotFound

from servers.docker_policy import container, hardening, images, lifeline, ownership, show
from servers.docker_policy.answers import Answer, Settings, Status
from servers.docker_policy.hardening import Envelope
from servers.docker_policy.images import Allowlist
from servers.docker_policy.looking import output
from servers.docker_policy.subcommands import Run
from servers.docker_policy.words import Refused

_NO_PROGRAM = 127
_LEAST_MEMORY = 6 * hardening.MIB


def lowered(envelope: Envelope, command: Run) -> Envelope:
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


def check_room(client: DockerClient, agent: str, command: Run, limit: int) -> None:
    """Raises Refused where the agent has as many as it may, or one of that name."""
    mine = ownership.of_agent(client, agent)
    if len(mine) >= limit:
        raise Refused(
            f"docker run: there are {len(mine)} containers already: remove some (docker rm)"
        )
    if command.name is not None and any(show.name_of(c) == command.name for c in mine):
        raise Refused(f"docker run: the name {command.name} is in use by a container of yours")


def create(client: DockerClient, command: Run, agent: str, settings: Settings) -> str:
    """A container that was inspected and not started."""
    envelope = lowered(settings.envelope, command)
    image = _image(client, command.image, settings.allowlist)
    try:
        return container.create(client, config(command, image, agent, envelope))
    except container.Otherwise as e:
        raise Refused(f"docker run: {e}") from e


def _image(client: DockerClient, name: str, allowlist: Allowlist) -> dict[str, Any]:
    missing = Refused(
        f"docker run: the image {name} is not on this machine, and none is pulled on the way:"
        f" ask the operator for `docker pull {name}`; docker images lists what is here"
    )
    try:
        image: dict[str, Any] = client.api.inspect_image(name)  # type: ignore[no-untyped-call]
    except ImageNotFound:
        raise missing from None
    digests = image["RepoDigests"] or []
    if not images.is_named(name, [*(image["RepoTags"] or []), *digests]):
        raise missing
    if not allowlist.permits(name, digests):
        raise Refused(
            f"docker run: the image {name} of this machine is not the one that may be run;"
            f" these may: {allowlist}"
        )
    return image


def config(
    command: Run, image: Mapping[str, Any], agent: str, envelope: Envelope
) -> dict[str, Any]:
    """The container as the engine's API takes it. Pure; `image` is what the engine says of it."""
    own = image["Config"] or {}
    words = lifeline.command_of(own, command.entrypoint, command.arguments)
    if not words:
        raise Refused(f"docker run: {command.image} has no command of its own: give one")
    bounded = hardening.tmpfs_options(envelope.tmpfs)
    places = ["/tmp", *(own.get("Volumes") or {})]  # noqa: S108 - the container's own
    host = hardening.host_config(envelope, dict.fromkeys(places, bounded))
    host["AutoRemove"] = command.detach and command.remove
    return {
        **container.config(image["Id"], lifeline.around(words), host),
        "WorkingDir": command.workdir or own.get("WorkingDir") or "/",
        "Env": [f"{name}={value}" for name, value in command.environment],
        "Labels": ownership.labels(agent, command.image, command.name),
    }


def ended(client: DockerClient, identity: str) -> Answer:
    """End a container that ran in the foreground, and what it came to."""
    state = container.end(client, identity)
    stdout, stderr = output(client, identity)
    code = int(state["ExitCode"])
    if code == _NO_PROGRAM and lifeline.is_missing(stderr):
        raise Refused(
            f"docker run: the image has no {lifeline.SHELL}, which a container needs here to end"
            " when this server does"
        )
    if state.get("OOMKilled"):
        stderr += "the container needed more memory than it may have\n"
    status: Status = "error" if code else "ok"
    return Answer(status=status, stdout=stdout, stderr=stderr, exit_code=code)
