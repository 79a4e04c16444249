"""What the engine says, as the docker CLI would, and only what an agent may know. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from servers.docker_policy import lifeline, ownership
from servers.docker_policy.hardening import MIB

MASK = "********"
_MASKED_URL = rf"\g<1>{MASK}@"
_SECRET = re.compile(
    r"key|token|secret|pass|pwd|credential|auth|cookie|session|signature|dsn", re.IGNORECASE
)
_IN_URL = re.compile(r"(://(?:[^/@\s:]*:)?)\S+@")  # to the last @: passwords hold anything

Row = Mapping[str, str]


def name_of(container: Mapping[str, Any]) -> str:
    """The name that the agent gave, or the beginning of the id."""
    labels = container["Config"]["Labels"] if "Config" in container else container["Labels"]
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


def image_rows(image: Mapping[str, Any], *, full: bool) -> list[Row]:
    """The lines of `docker images` for one image, one a tag."""
    return [
        {
            "REPOSITORY": tag.rpartition(":")[0],
            "TAG": tag.rpartition(":")[2],
            "IMAGE ID": _image_id(image["Id"], full=full),
            "SIZE": f"{image['Size'] / 1e6:.1f}MB",
        }
        for tag in image.get("RepoTags") or []
    ]


def _image_id(identity: str, *, full: bool) -> str:
    return identity if full else identity.partition(":")[2][:12]


STATS = ("CONTAINER ID", "NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "PIDS")


def stats_row(container: Mapping[str, Any], measured: Mapping[str, Any], *, full: bool) -> Row:
    """One line of `docker stats`; `measured` is what the engine says, or nothing."""
    memory = measured.get("memory_stats") or {}
    used, limit = _memory_used(memory), int(memory.get("limit") or 0)
    return {
        "CONTAINER ID": container["Id"][: 64 if full else 12],
        "NAME": name_of(container),
        "CPU %": f"{_cpu_percent(measured):.2f}%",
        "MEM USAGE / LIMIT": f"{used / MIB:.2f}MiB / {limit / MIB:.2f}MiB",
        "MEM %": f"{100 * used / limit if limit else 0:.2f}%",
        "PIDS": str((measured.get("pids_stats") or {}).get("current") or 0),
    }


def _memory_used(memory: Mapping[str, Any]) -> int:
    """As the CLI reckons: less the file cache that can be given up at once (cgroup v1, v2)."""
    kinds = memory.get("stats") or {}
    cache = kinds.get("total_inactive_file", kinds.get("inactive_file", 0))
    return max(0, int(memory.get("usage") or 0) - int(cache))


def _cpu_percent(measured: Mapping[str, Any]) -> float:
    """Of one processor, since the look before."""
    now, before = measured.get("cpu_stats") or {}, measured.get("precpu_stats") or {}

    def spent(stats: Mapping[str, Any]) -> tuple[int, int]:
        own = (stats.get("cpu_usage") or {}).get("total_usage", 0)
        return int(own), int(stats.get("system_cpu_usage") or 0)

    (own, system), (own_before, system_before) = spent(now), spent(before)
    if system <= system_before:
        return 0.0
    return 100.0 * (own - own_before) / (system - system_before) * int(now.get("online_cpus") or 1)


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
