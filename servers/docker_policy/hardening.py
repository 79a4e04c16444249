"""What every container is made with, whatever was asked for, and whether an inspected one has it.

Above: `commands`, and the sandbox's Docker backend. Pure: dicts in, dicts out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from servers.sandboxing import seccomp

MIB = 1 << 20
USER = "65534:65534"


@dataclass(frozen=True, slots=True)
class Envelope:
    """How much one container may use; sizes in bytes."""

    memory: int = 512 * MIB
    cpus: float = 1.0
    processes: int = 128
    tmpfs: int = 64 * MIB
    files: int = 1024

    @property
    def nano_cpus(self) -> int:
        """Processors as the engine counts them."""
        return int(self.cpus * 1_000_000_000)


def tmpfs_options(size: int, mode: str = "1777", *, executable: bool = False) -> str:
    """A mount that is bounded in bytes and in files."""
    flags = "rw,nosuid,nodev" if executable else "rw,nosuid,nodev,noexec"
    return f"{flags},size={size},nr_inodes={max(size // 4096, 1024)},mode={mode}"


def host_config(envelope: Envelope, tmpfs: Mapping[str, str]) -> dict[str, Any]:
    """The engine's HostConfig, as its API writes it."""
    return {
        "AutoRemove": False,
        "CapDrop": ["ALL"],
        "Init": True,
        "IpcMode": "private",
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "1"}},
        "Memory": envelope.memory,
        "MemorySwap": envelope.memory,
        "NanoCpus": envelope.nano_cpus,
        "NetworkMode": "none",
        "PidsLimit": envelope.processes,
        "Privileged": False,
        "ReadonlyRootfs": True,
        "RestartPolicy": {"Name": "no"},
        "SecurityOpt": ["no-new-privileges:true", f"seccomp={seccomp.docker_profile()}"],
        "ShmSize": 16 * MIB,
        "Tmpfs": dict(tmpfs),
        "Ulimits": [
            {"Name": "core", "Soft": 0, "Hard": 0},
            {"Name": "nofile", "Soft": envelope.files, "Hard": envelope.files},
        ],
    }


# Settings that would open the container, and must be nothing at all.
_MUST_BE_EMPTY = (
    "Binds",
    "CapAdd",
    "ContainerIDFile",
    "DeviceCgroupRules",
    "DeviceRequests",
    "Devices",
    "GroupAdd",
    "Links",
    "Mounts",
    "PidMode",
    "PortBindings",
    "Privileged",
    "PublishAllPorts",
    "Sysctls",
    "UTSMode",
    "UsernsMode",
    "VolumesFrom",
)


def deviations(inspected: Mapping[str, Any], envelope: Envelope, *, init: bool = True) -> list[str]:
    """Where a container, as the engine describes it, is not what we asked for; empty when it is."""
    found = list(_deviations(inspected, envelope))
    if inspected["HostConfig"].get("Init") is not init:
        found.append(f"Init is {not init}")
    return found


def _deviations(inspected: Mapping[str, Any], envelope: Envelope) -> Iterator[str]:
    host, config = inspected["HostConfig"], inspected["Config"]
    for key in _MUST_BE_EMPTY:
        if host.get(key):
            yield f"{key} is set"
    for key, wanted in _exact(envelope).items():
        if host.get(key) != wanted:
            yield f"{key} is {host.get(key)!r}"
    security = host.get("SecurityOpt") or []
    if not any(option.startswith("no-new-privileges") for option in security):
        yield "privileges can be gained"
    if not any(option.startswith("seccomp=") and "unconfined" not in option for option in security):
        yield "system calls are not filtered"
    if config.get("User") != USER:
        yield f"User is {config.get('User')!r}"
    yield from _mounts(inspected.get("Mounts") or [])


def _exact(envelope: Envelope) -> dict[str, Any]:
    asked = host_config(envelope, {})
    keys = (
        *("CapDrop", "IpcMode", "LogConfig", "Memory", "MemorySwap", "NanoCpus"),
        *("NetworkMode", "PidsLimit", "ReadonlyRootfs"),
    )
    return {key: asked[key] for key in keys}


def _mounts(mounts: list[Mapping[str, Any]]) -> Iterator[str]:
    """Only tmpfs: an image's own VOLUME would be room on the host's disk without a bound."""
    for mount in mounts:
        if mount.get("Type") != "tmpfs":
            yield f"{mount.get('Type')} is mounted at {mount.get('Destination')}"
