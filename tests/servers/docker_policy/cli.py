"""What the docker CLI offers: version 28's own help, and that of the one which is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

FLAGS: Mapping[str, str] = {
    "version": "-f|--format:string",
    "info": "-f|--format:string",
    "ps": """
        -a|--all -f|--filter:filter --format:string -n|--last:int -l|--latest --no-trunc
        -q|--quiet -s|--size
    """,
    "images": "-a|--all --digests -f|--filter:filter --format:string --no-trunc -q|--quiet --tree",
    "logs": "--details -f|--follow --since:string -n|--tail:string -t|--timestamps --until:string",
    "inspect": "-f|--format:string -s|--size --type:string",
    "stats": "-a|--all --format:string --no-stream --no-trunc",
    "top": "",
    "port": "",
    "run": """
        --add-host:list --annotation:map -a|--attach:list --blkio-weight:uint16
        --blkio-weight-device:list --cap-add:list --cap-drop:list --cgroup-parent:string
        --cgroupns:string --cidfile:string --cpu-count:int --cpu-percent:int
        --cpu-period:int --cpu-quota:int --cpu-rt-period:int --cpu-rt-runtime:int
        -c|--cpu-shares:int --cpus:decimal --cpuset-cpus:string --cpuset-mems:string
        -d|--detach --detach-keys:string --device:list --device-cgroup-rule:list
        --device-read-bps:list --device-read-iops:list --device-write-bps:list
        --device-write-iops:list --disable-content-trust --dns:list --dns-option:list
        --dns-search:list --domainname:string --entrypoint:string -e|--env:list
        --env-file:list --expose:list --gpus:gpu-request --group-add:list
        --health-cmd:string --health-interval:duration --health-retries:int
        --health-start-interval:duration --health-start-period:duration
        --health-timeout:duration --help -h|--hostname:string --init -i|--interactive
        --io-maxbandwidth:bytes --io-maxiops:uint --ip:string --ip6:string --ipc:string
        --isolation:string --kernel-memory:bytes -l|--label:list --label-file:list
        --link:list --link-local-ip:list --log-driver:string --log-opt:list
        --mac-address:string -m|--memory:bytes --memory-reservation:bytes
        --memory-swap:bytes --memory-swappiness:int --mount:mount --name:string
        --network:network --network-alias:list --no-healthcheck --oom-kill-disable
        --oom-score-adj:int --pid:string --pids-limit:int --platform:string --privileged
        -p|--publish:list -P|--publish-all --pull:string -q|--quiet --read-only
        --restart:string --rm --runtime:string --security-opt:list --shm-size:bytes
        --sig-proxy --stop-signal:string --stop-timeout:int --storage-opt:list --sysctl:map
        --tmpfs:list -t|--tty --ulimit:ulimit --use-api-socket -u|--user:string
        --userns:string --uts:string -v|--volume:list --volume-driver:string
        --volumes-from:list -w|--workdir:string
    """,
    "start": """
        -a|--attach --checkpoint:string --checkpoint-dir:string --detach-keys:string
        -i|--interactive
    """,
    "stop": "-s|--signal:string -t|--timeout:int",
    "restart": "-s|--signal:string -t|--timeout:int",
    "rm": "-f|--force -l|--link -v|--volumes",
}
"""The flags of the commands that we take, as `-short|--long:kind of value`."""

_COMMANDS = """
    attach build builder checkpoint commit config container context cp create diff events exec
    export history image images import info inspect kill load login logout logs manifest
    network node pause plugin port ps pull push rename restart rm rmi run save search secret
    service stack start stats stop swarm system tag top trust unpause update version volume
    wait
"""

GROUPS: Mapping[str, str] = {
    "builder": "build prune",
    "checkpoint": "create ls rm",
    "container": (
        "attach commit cp create diff exec export inspect kill logs ls pause "
        "port prune rename restart rm run start stats stop top unpause update wait"
    ),
    "context": "create export import inspect ls rm show update use",
    "image": "build history import inspect load ls prune pull push rm save tag",
    "manifest": "annotate create inspect push rm",
    "network": "connect create disconnect inspect ls prune rm",
    "plugin": "create disable enable inspect install ls push rm set upgrade",
    "system": "df events info prune",
    "trust": "key signer inspect revoke sign",
    "volume": "create inspect ls prune rm update",
    "config": "create inspect ls rm",
    "node": "demote inspect ls promote ps rm update",
    "secret": "create inspect ls rm",
    "service": "create inspect logs ls ps rm rollback scale update",
    "stack": "config deploy ls ps rm services",
    "swarm": "ca init join leave unlock update",
}

_IN_HELP = re.compile(
    r"^ {2,6}(?:(-\w), )?(--[a-z0-9-]+)(?: ([a-zA-Z0-9-]+))?(?:  +|$)", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class CliFlag:
    """One flag of the CLI; `short` may be empty."""

    short: str
    long: str
    takes_value: bool

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.short, self.long)))


def flags(command: str) -> list[CliFlag]:
    """The flags of a command, in the CLI that is installed too."""
    return list(dict.fromkeys((*_known(command), *_installed(command))))


def _known(command: str) -> Iterator[CliFlag]:
    for word in FLAGS[command].split():
        names, _, kind = word.partition(":")
        short, _, long = names.rpartition("|")
        yield CliFlag(short, long, bool(kind))


def _installed(command: str) -> Iterator[CliFlag]:
    for short, long, kind in _IN_HELP.findall(_help(command).partition("\nOptions:\n")[2]):
        yield CliFlag(short, long, bool(kind))


def commands() -> list[str]:
    """The commands, and those of groups as `group command`, of the CLI that is installed too."""
    grouped = [f"{group} {verb}" for group, verbs in GROUPS.items() for verb in verbs.split()]
    listed = _help().partition("Commands:\n")[2].partition("Global Options:")[0]
    installed = re.findall(r"^  ([a-z]+)\*? {2,}", listed, re.MULTILINE)
    return list(dict.fromkeys((*_COMMANDS.split(), *grouped, *installed)))


def _help(*words: str) -> str:
    docker = shutil.which("docker")
    if docker is None:  # what is written above is compared in any case
        return ""
    asked = subprocess.run([docker, *words, "--help"], capture_output=True, text=True, check=False)
    return asked.stdout
