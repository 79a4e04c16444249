"""What every container is made with, whatever was asked for, and whether an inspected one has it.

Above: `commands`, and the sandbox's Docker backend. Pure: dicts in, dicts out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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


def tmpfs_options(size: int) -> str:
    """A mount that is bounded in bytes and in files, and that the container's user may write to.

    It belongs to that user: the mode is overruled by that of a folder that the image has there.
    """
    owner, _, group = USER.partition(":")
    bounds = f"size={size},nr_inodes={max(size // 4096, 1024)}"
    return f"rw,nosuid,nodev,noexec,{bounds},uid={owner},gid={group},mode=1777"


def security(profile: str) -> list[str]:
    """The engine's SecurityOpt with that system call profile."""
    return ["no-new-privileges:true", f"seccomp={profile}"]


def host_config(envelope: Envelope, tmpfs: Mapping[str, str]) -> dict[str, Any]:
    """The engine's HostConfig, as its API writes it."""
    return {
        "AutoRemove": False,
        "CapDrop": ["ALL"],
        "CgroupnsMode": "private",
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
        "SecurityOpt": security(seccomp.docker_profile()),
        "ShmSize": 16 * MIB,
        "Tmpfs": dict(tmpfs),
        "Ulimits": [
            {"Name": "core", "Soft": 1, "Hard": 1},  # not 0: see core(5), of dumps that are piped
            {"Name": "nofile", "Soft": envelope.files, "Hard": envelope.files},
        ],
    }


# What an engine may say of settings that nobody asked for, beside nothing at all.
_USUAL: Mapping[str, Sequence[Any]] = {
    "ConsoleSize": ([0, 0],),
    "Isolation": ("default",),
    "MemorySwappiness": (-1,),
}
_THE_OPERATORS = frozenset({"Runtime"})  # the engine's own default, which may be a stricter one
# paths of the engine's own choice, which grows with its versions, unless others were asked for
_AT_LEAST: Mapping[str, frozenset[str]] = {
    "MaskedPaths": frozenset({"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"}),
    "ReadonlyPaths": frozenset(
        {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
    ),
}
_CONFIG = (
    *("User", "Entrypoint", "Cmd", "WorkingDir", "OpenStdin", "StdinOnce", "Tty"),
    "Healthcheck",
)


def deviations(inspected: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Where a container, as the engine describes it, is not what was asked for; empty when it is.

    Every setting counts: one that was not asked for has to be what it usually is, which is nothing.
    """
    return [
        *_other_host(inspected["HostConfig"], asked["HostConfig"]),
        *_other_config(inspected["Config"], asked),
        *_mounts(inspected.get("Mounts") or [], asked["HostConfig"].get("Mounts") or []),
    ]


def _other_host(host: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[str]:
    for key in sorted(host.keys() | asked.keys() | _AT_LEAST.keys()):
        found = host.get(key)
        if key in _AT_LEAST and key not in asked:
            if not _AT_LEAST[key] <= set(found or ()):
                yield f"{key} leaves the engine's paths open"
        elif key in _THE_OPERATORS and key not in asked:
            continue
        elif not _is(found, asked.get(key), _USUAL.get(key, ())):
            yield f"{key} is {str(found)[:200]}"


def _other_config(config: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[str]:
    for key in _CONFIG:
        if not _is(config.get(key), asked.get(key)):
            yield f"{key} is {str(config.get(key))[:200]}"


def _is(found: Any, wanted: Any, usual: Sequence[Any] = ()) -> bool:
    """Whether it is what was wanted, which may be nothing."""
    if not wanted:
        return _is_nothing(found) or found in usual
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        return all(_is(found.get(key), wanted.get(key)) for key in found.keys() | wanted.keys())
    if isinstance(wanted, list) and isinstance(found, list) and len(found) == len(wanted):
        return all(map(_is, found, wanted))
    return bool(found == wanted)


def _is_nothing(found: Any) -> bool:
    """Whether it sets nothing, which every engine says in words of its own, also of keys that it
    alone knows: null, false, 0, nothing in it, or an object whose every key is so.

    What a list holds is something, whatever it is: one more device, mount or port.
    """
    return not found or (isinstance(found, Mapping) and all(map(_is_nothing, found.values())))


def _mounts(
    mounts: Sequence[Mapping[str, Any]], asked: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """What was asked for, read-only, and tmpfs.

    An image's own VOLUME would be room on the host's disk without a bound.
    """
    known = {(mount["Type"], mount["Source"], mount["Target"]) for mount in asked}
    for mount in mounts:
        kind, place = mount.get("Type"), mount.get("Destination")
        if kind != "tmpfs" and (mount.get("RW") or (kind, mount.get("Source"), place) not in known):
            yield f"{kind} is mounted at {place}"
