"""What the engine says, as the docker CLI would, and only what an agent may know. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from servers.docker_policy import lifeline, ownership

MASK = "********"
_MASKED_URL = rf"\g<1>{MASK}@"
_SECRET = re.compile(
    r"key|token|secret|pass|pwd|credential|auth|cookie|session|signature|dsn", re.IGNORECASE
)
_IN_URL = re.compile(r"(://[^/@\s:]*:)[^@\s/]+@")

Row = Mapping[str, str]


def name_of(container: Mapping[str, Any]) -> str:
    """The name that the agent gave, or the beginning of the id."""
    labels = container.get("Labels") or container["Config"]["Labels"]
    return str(labels.get(ownership.NAME) or container["Id"][:12])


def container_row(container: Mapping[str, Any], *, full: bool) -> Row:
    """One line of `docker ps`."""
    size = 64 if full else 12
    return {
        "CONTAINER ID": container["Id"][:size],
        "IMAGE": container["Labels"].get(ownership.IMAGE, "?"),
        "STATUS": container["Status"],
        "NAMES": name_of(container),
    }


def image_rows(images: Iterable[Mapping[str, Any]], *, full: bool) -> list[Row]:
    """The lines of `docker images`, one a tag."""
    return [
        {
            "REPOSITORY": tag.rpartition(":")[0],
            "TAG": tag.rpartition(":")[2],
            "IMAGE ID": _image_id(image["Id"], full=full),
            "SIZE": f"{image['Size'] / 1e6:.1f}MB",
        }
        for image in images
        for tag in image.get("RepoTags") or []
    ]


def _image_id(identity: str, *, full: bool) -> str:
    return identity if full else identity.partition(":")[2][:12]


def table(columns: Sequence[str], rows: Sequence[Row]) -> str:
    """Columns as wide as they need to be, three spaces between them."""
    widths = [max(map(len, (c, *(row[c] for row in rows)))) for c in columns]
    lines = [columns, *([row[c] for c in columns] for row in rows)]
    padded = ("   ".join(w.ljust(n) for w, n in zip(line, widths, strict=True)) for line in lines)
    return "".join(f"{line.rstrip()}\n" for line in padded)


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """One JSON object a line, as `--format json` has it."""
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def version(engine: Mapping[str, Any]) -> dict[str, str]:
    """What an agent may know of the engine's version."""
    keys = ("Version", "ApiVersion", "MinAPIVersion", "Os", "Arch", "KernelVersion")
    return {key: str(engine.get(key, "")) for key in keys}


def info(engine: Mapping[str, Any], containers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What an agent may know of the engine: its kind and size, and the agent's own containers."""
    running = sum(c["State"] == "running" for c in containers)
    keys = ("ServerVersion", "OSType", "Architecture", "NCPU", "MemTotal", "CgroupVersion")
    return {
        "Containers": len(containers),
        "ContainersRunning": running,
        "ContainersStopped": len(containers) - running,
        **{key: engine.get(key) for key in keys},
    }


def facts(values: Mapping[str, Any], title: str) -> str:
    """`Name: value` lines under a title."""
    return f"{title}:\n" + "".join(f" {key}: {value}\n" for key, value in values.items())


def masked(variable: str) -> str:
    """NAME=VALUE with what looks like a secret replaced."""
    name, equals, value = variable.partition("=")
    if _SECRET.search(name):
        return f"{name}{equals}{MASK}"
    return f"{name}{equals}{_IN_URL.sub(_MASKED_URL, value)}"


def inspection(container: Mapping[str, Any]) -> dict[str, Any]:
    """A container as `docker inspect` shows it, less the host's paths and the secrets."""
    state, config, host = container["State"], container["Config"], container["HostConfig"]
    limits = ("Memory", "MemorySwap", "NanoCpus", "PidsLimit", "NetworkMode", "ReadonlyRootfs")
    seen = ("Status", "Running", "ExitCode", "OOMKilled", "Error", "StartedAt", "FinishedAt")
    return {
        "Id": container["Id"],
        "Name": name_of(container),
        "Created": container["Created"],
        "State": {key: state.get(key) for key in seen},
        "Image": container["Image"],
        "Config": {
            "Image": config["Labels"].get(ownership.IMAGE),
            "Command": lifeline.inside(config.get("Entrypoint") or []),
            "Env": [masked(variable) for variable in config.get("Env") or []],
            "WorkingDir": config.get("WorkingDir"),
            "User": config.get("User"),
        },
        "HostConfig": {
            **{key: host.get(key) for key in limits},
            "CapDrop": host.get("CapDrop"),
            "Tmpfs": host.get("Tmpfs"),
        },
    }
