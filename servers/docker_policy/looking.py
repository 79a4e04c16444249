"""The commands that only look, and finding a container as an agent calls it; all of it blocks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from docker import DockerClient

from servers.docker_policy import grammar, ownership, show
from servers.docker_policy.answers import Answer, Settings, done, failed
from servers.docker_policy.images import Allowlist
from servers.sandboxing.text import decode


class Unknown(Exception):
    """The agent has no such container; another agent's is as unknown as one that is not there."""

    def __init__(self, reference: str) -> None:
        super().__init__(f"Error: No such container: {reference}")


def ask(client: DockerClient, command: grammar.Command, agent: str, settings: Settings) -> Answer:
    """The commands that only look."""
    try:
        match command:
            case grammar.Version(json=as_json):
                return done(_facts(show.version(client.version()), "Server", as_json=as_json))
            case grammar.Info(json=as_json):
                mine = ownership.of_agent(client, agent)
                return done(_facts(show.info(client.info(), mine), "Server", as_json=as_json))
            case grammar.Ps():
                return done(_ps(command, ownership.of_agent(client, agent)))
            case grammar.Images():
                return done(_images(command, client.api.images(), settings.allowlist))
            case grammar.Logs():
                return _logs(client, agent, command)
            case grammar.Inspect():
                return _inspect(client, agent, command)
    except Unknown as e:
        return failed(f"{e}\n")
    raise AssertionError(command)


def _facts(values: dict[str, Any], title: str, *, as_json: bool) -> str:
    return show.json_lines([values]) if as_json else show.facts(values, title)


def _ps(command: grammar.Ps, containers: list[dict[str, Any]]) -> str:
    shown = [
        c
        for c in containers
        if (command.all or command.status or c["State"] == "running")
        and (command.status is None or c["State"] == command.status)
        and (command.name is None or command.name in show.name_of(c))
    ]
    rows = [show.container_row(c, full=command.full) for c in shown]
    columns = ("CONTAINER ID", "IMAGE", "STATUS", "NAMES")
    return _listed(rows, columns, quiet="CONTAINER ID" if command.quiet else None, command=command)


def _images(command: grammar.Images, found: list[dict[str, Any]], allowlist: Allowlist) -> str:
    rows = [
        row
        for row in show.image_rows(found, full=command.full)
        if allowlist.permits(f"{row['REPOSITORY']}:{row['TAG']}")
    ]
    columns = ("REPOSITORY", "TAG", "IMAGE ID", "SIZE")
    return _listed(rows, columns, quiet="IMAGE ID" if command.quiet else None, command=command)


def _listed(
    rows: list[show.Row],
    columns: Sequence[str],
    *,
    quiet: str | None,
    command: grammar.Ps | grammar.Images,
) -> str:
    if quiet is not None:
        return "".join(f"{row[quiet]}\n" for row in rows)
    return show.json_lines(rows) if command.json else show.table(columns, rows)


def _logs(client: DockerClient, agent: str, command: grammar.Logs) -> Answer:
    container = find(client, agent, command.container)["Id"]
    stdout, stderr = output(client, container, command)
    return Answer("ok", stdout=stdout, stderr=stderr, exit_code=0)


def output(
    client: DockerClient, container: str, command: grammar.Logs | None = None
) -> tuple[str, str]:
    """What a container wrote, as far as its bounded log keeps it."""
    tail: int | Literal["all"] = "all" if command is None or command.tail is None else command.tail
    timestamps = command is not None and command.timestamps

    def one(*, stdout: bool) -> str:
        data = client.api.logs(
            container, stdout=stdout, stderr=not stdout, tail=tail, timestamps=timestamps
        )
        return decode(data)

    return one(stdout=True), one(stdout=False)


def _inspect(client: DockerClient, agent: str, command: grammar.Inspect) -> Answer:
    found = [
        show.inspection(client.api.inspect_container(find(client, agent, reference)["Id"]))
        for reference in command.containers
    ]
    return done(json.dumps(found, indent=4) + "\n")


def find(client: DockerClient, agent: str, reference: str) -> dict[str, Any]:
    """The agent's container with that name, id, or beginning of an id; raises Unknown."""
    mine = ownership.of_agent(client, agent)
    named = [c for c in mine if show.name_of(c) == reference]
    found = named or [c for c in mine if c["Id"].startswith(reference)]
    if len(found) != 1:
        raise Unknown(reference)
    return found[0]
