"""The commands that we run, as values: what `grammar` makes of a line, and `commands` runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PsOptions = Literal["-ef", "aux"]


@dataclass(frozen=True, slots=True)
class Version:
    """`docker version`."""

    json: bool = False


@dataclass(frozen=True, slots=True)
class Info:
    """`docker info`."""

    json: bool = False


@dataclass(frozen=True, slots=True)
class Ps:
    """`docker ps`: this agent's containers; `last` so many of the newest, ended ones too."""

    all: bool = False
    quiet: bool = False
    full: bool = False
    json: bool = False
    name: str | None = None
    status: str | None = None
    last: int | None = None


@dataclass(frozen=True, slots=True)
class Images:
    """`docker images`: the ones that may be run; `name` only those of that name."""

    quiet: bool = False
    full: bool = False
    json: bool = False
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Logs:
    """`docker logs`; `tail` None means all that is kept."""

    container: str
    tail: int | None = None
    timestamps: bool = False


@dataclass(frozen=True, slots=True)
class Inspect:
    """`docker inspect`: containers of this agent."""

    containers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stats:
    """`docker stats`, once; no `containers` means all that run, with `all` the others too."""

    containers: tuple[str, ...] = ()
    all: bool = False
    full: bool = False
    json: bool = False


@dataclass(frozen=True, slots=True)
class Top:
    """`docker top`."""

    container: str
    options: PsOptions = "-ef"


@dataclass(frozen=True, slots=True)
class Port:
    """`docker port`; `port` is the one that is asked for."""

    container: str
    port: str | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """`docker start`."""

    containers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stop:
    """`docker stop`; `seconds` to end by themselves."""

    containers: tuple[str, ...]
    seconds: int = 10


@dataclass(frozen=True, slots=True)
class Restart:
    """`docker restart`; `seconds` to end by themselves."""

    containers: tuple[str, ...]
    seconds: int = 10


@dataclass(frozen=True, slots=True)
class Rm:
    """`docker rm`."""

    containers: tuple[str, ...]
    force: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """`docker run`; None leaves a limit as the hardening sets it, a value may only lower it."""

    image: str
    arguments: tuple[str, ...] = ()
    detach: bool = False
    remove: bool = False
    name: str | None = None
    environment: tuple[tuple[str, str], ...] = ()
    workdir: str | None = None
    entrypoint: str | None = None
    memory: int | None = None
    cpus: float | None = None
    processes: int | None = None


Look = Version | Info | Ps | Images | Logs | Inspect | Stats | Top | Port
Command = Look | Run | Start | Stop | Restart | Rm
