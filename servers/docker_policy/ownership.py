"""Whose container is it: the labels that say so, and whether its maker is still alive."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import psutil
from docker import DockerClient
from docker.errors import APIError, NotFound

AGENT = "mcpcp.agent"
MAKER = "mcpcp.maker"
NAME = "mcpcp.name"

_LABEL = re.compile(r"\A(?P<node>.*)/(?P<pid>\d{1,9})/(?P<created>\d{1,12}\.\d\d)\Z", re.ASCII)
IMAGE = "mcpcp.image"


_SAME_START_SECONDS = 5.0
"""A process's start is reckoned from the machine's clock, which is set now and then."""


def maker() -> str:
    """This process, told apart from any other on any machine that uses the engine."""
    return _maker(os.getpid())


@cache
def _maker(pid: int) -> str:
    """Once a process, because the clock that the start is reckoned from may be set."""
    return f"{platform.node()}/{pid}/{psutil.Process(pid).create_time():.2f}"


def is_orphan(made_by: str) -> bool:
    """Whether a maker was of this machine and is no more; another machine's we can't judge."""
    label = _LABEL.match(made_by)
    if label is None or label["node"] != platform.node():
        return False
    try:
        created = psutil.Process(int(label["pid"])).create_time()
    except psutil.Error:
        return True
    return abs(created - float(label["created"])) > _SAME_START_SECONDS


def sweep(client: DockerClient) -> int:
    """Remove containers whose makers are no more; how many there were."""
    return _remove_if(client, is_orphan)


def remove_own(client: DockerClient) -> int:
    """Remove every container that this process made."""
    mine = maker()
    return _remove_if(client, lambda made_by: made_by == mine)


def running(client: DockerClient) -> set[str]:
    """The ids of the containers that this process made and that run now."""
    found = client.api.containers(filters={"label": f"{MAKER}={maker()}"})
    return {str(container["Id"]) for container in found}


def _remove_if(client: DockerClient, condition: Any) -> int:
    found = client.api.containers(all=True, filters={"label": MAKER})
    wanted = [c["Id"] for c in found if condition(c["Labels"].get(MAKER, ""))]
    for container in wanted:
        remove(client, container)
    return len(wanted)


def remove(client: DockerClient, container: str) -> None:
    """Remove a container, running or not; one that is already gone is no error."""
    try:
        client.api.remove_container(container, force=True, v=True)
    except NotFound:
        return
    except APIError as e:
        if e.status_code != 409:  # somebody else is removing it right now
            raise


def labels(agent: str, image: str, name: str | None) -> dict[str, str]:
    """What a container of this agent carries."""
    named: Mapping[str, str] = {} if name is None else {NAME: name}
    return {AGENT: agent, MAKER: maker(), IMAGE: image, **named}


def sandbox_labels() -> dict[str, str]:
    """What a container carries that is no agent's: a sandbox, gone when its call ends."""
    return {MAKER: maker()}


def of_agent(client: DockerClient, agent: str) -> list[dict[str, Any]]:
    """The containers that this process made for the agent, as the engine lists them."""
    label = [f"{AGENT}={agent}", f"{MAKER}={maker()}"]
    found: list[dict[str, Any]] = client.api.containers(all=True, filters={"label": label})
    # the engine compares labels as text already; this is what everything else rests on
    return [c for c in found if c["Labels"].get(AGENT) == agent]
