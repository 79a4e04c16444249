"""The commands that only look, and finding a container as an agent calls it; all of it blocks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from docker import DockerClient

from servers.docker_policy import lifeline, ownership, show
from servers.docker_policy.answers import Answer, Settings, done, failed
from servers.docker_policy.images import Allowlist
from servers.docker_policy.subcommands import (
    Images,
    Info,
    Inspect,
    Logs,
    Look,
    Port,
    Ps,
    Stats,
    Top,
    Version,
)
from servers.sandboxing.text import decode


class Unknown(Exception):
    """The agent has no such container; another agent's is as unknown as one that is not there."""

    def __init__(self, reference: str) -> None:
        super().__init__(f"Error: No such container: {reference}")


def ask(client: DockerClient, command: Look, agent: str, settings: Settings) -> Answer:
    """The commands that only look."""
    try:
        match command:
            case Version(json=as_json):
                return done(_facts(show.version(client.version()), "Server", as_json=as_json))
            case Info(json=as_json):
                mine = ownership.of_agent(client, agent)
                return done(_facts(show.info(client.info(), mine), "Server", as_json=as_json))
            case Ps():
                return done(_ps(command, ownership.of_agent(client, agent)))
            case Images():
                return done(_images(command, client.api.images(), settings.allowlist))
            case _:
                return _ask_of_containers(client, command, agent)
    except Unknown as e:
        return failed(f"{e}\n")


def _ask_of_containers(
    client: DockerClient, command: Logs | Inspect | Stats | Top | Port, agent: str
) -> Answer:
    match command:
        case Logs():
            return _logs(client, agent, command)
        case Inspect():
            return _inspect(client, agent, command)
        case Stats():
            return done(_stats(client, agent, command))
        case Top():
            return _top(client, agent, command)
        case Port():
            return _port(client, agent, command)


def _facts(values: dict[str, Any], title: str, *, as_json: bool) -> str:
    return show.json_lines([values]) if as_json else show.facts(values, title)


def _ps(command: Ps, containers: list[dict[str, Any]]) -> str:
    """The newest first, as the engine lists them."""
    ended_too = command.all or command.status or command.last is not None
    shown = [
        c
        for c in containers[: command.last]
        if (ended_too or c["State"] == "running")
        and (command.status is None or c["State"] == command.status)
        and (command.name is None or command.name in show.name_of(c))
    ]
    rows = [show.container_row(c, full=command.full) for c in shown]
    columns = ("CONTAINER ID", "IMAGE", "STATUS", "NAMES")
    if command.quiet:
        return _column("CONTAINER ID", rows)
    return _listed(rows, columns, as_json=command.json)


def _images(command: Images, found: list[dict[str, Any]], allowlist: Allowlist) -> str:
    rows = [
        row
        for image in found
        for row in show.image_rows(image, full=command.full)
        if allowlist.permits(f"{row['REPOSITORY']}:{row['TAG']}", image.get("RepoDigests") or [])
    ]
    if command.name is not None:
        rows = [row for row in rows if _is_called(row, command.name)]
    columns = ("REPOSITORY", "TAG", "IMAGE ID", "SIZE")
    if command.quiet:
        return _column("IMAGE ID", rows)
    return _listed(rows, columns, as_json=command.json)


def _is_called(row: show.Row, name: str) -> bool:
    """As in `docker images NAME`: without a tag, those with any."""
    repository, tag = row["REPOSITORY"], row["TAG"]
    return name == repository or name == f"{repository}:{tag}"


def _column(name: str, rows: Iterable[show.Row]) -> str:
    return "".join(f"{row[name]}\n" for row in rows)


def _listed(rows: Sequence[show.Row], columns: Sequence[str], *, as_json: bool) -> str:
    return show.json_lines(rows) if as_json else show.table(columns, rows)


def _stats(client: DockerClient, agent: str, command: Stats) -> str:
    """One look at each; the engine takes a second for it, so at all of them at once."""
    mine = ownership.of_agent(client, agent)
    if command.containers:
        chosen = [find(client, agent, reference) for reference in command.containers]
    else:
        chosen = [c for c in mine if command.all or c["State"] == "running"]
    with ThreadPoolExecutor(max_workers=max(1, len(chosen))) as threads:
        rows = list(threads.map(lambda c: _stats_row(client, c, full=command.full), chosen))
    return _listed(rows, show.STATS, as_json=command.json)


def _stats_row(client: DockerClient, container: dict[str, Any], *, full: bool) -> show.Row:
    measured: dict[str, Any] = {}
    if container["State"] == "running":
        measured = client.api.stats(container["Id"], stream=False)
    return show.stats_row(container, measured, full=full)


def _top(client: DockerClient, agent: str, command: Top) -> Answer:
    container = find(client, agent, command.container)
    if container["State"] != "running":
        return failed(f"Error: {command.container} is not running\n")
    found = client.api.top(container["Id"], f"{command.options} ww")  # however wide the engine is
    titles = found["Titles"]
    rows = [
        dict(zip(titles, map(lifeline.shortened, row), strict=False)) for row in found["Processes"]
    ]
    return done(show.table(titles, rows))


def _port(client: DockerClient, agent: str, command: Port) -> Answer:
    """None is ever published: a container has no network."""
    find(client, agent, command.container)
    if command.port is None:
        return done("")
    return failed(f"Error: No public port '{command.port}' published for {command.container}\n")


def _logs(client: DockerClient, agent: str, command: Logs) -> Answer:
    container = find(client, agent, command.container)["Id"]
    stdout, stderr = output(client, container, command)
    return Answer(status="ok", stdout=stdout, stderr=stderr, exit_code=0)


def output(client: DockerClient, container: str, command: Logs | None = None) -> tuple[str, str]:
    """What a container wrote, as far as its bounded log keeps it."""
    tail: int | Literal["all"] = "all" if command is None or command.tail is None else command.tail
    timestamps = command is not None and command.timestamps

    def one(*, stdout: bool) -> str:
        data = client.api.logs(
            container, stdout=stdout, stderr=not stdout, tail=tail, timestamps=timestamps
        )
        return decode(data)

    return one(stdout=True), one(stdout=False)


def _inspect(client: DockerClient, agent: str, command: Inspect) -> Answer:
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
