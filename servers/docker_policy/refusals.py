"""Why not: the reason for each flag and each command of the docker CLI that we do not take.

`tests/servers/docker_policy/test_refusals.py` compares these tables with what `docker --help` says.
"""

from __future__ import annotations

from collections.abc import Mapping

HOST_FILES = "files of the host are not for containers; they get an own /tmp, in memory"
PRIVILEGE = "containers run as an ordinary user, without capabilities, and can't be given any"
NAMESPACE = "containers have namespaces of their own, and no network"
TEMPLATES = "Go templates are not evaluated here; leave it out, or use --format json"
_TERMINAL = "there is no terminal and no input here: leave it out"
_LIMITS = "limits are set by the operator; -m, --cpus and --pids-limit lower them"
_LABELS = "labels say whose a container is"
_LOGS = "logs are kept, bounded, where docker logs finds them"
_HEALTH = "there are no health checks: docker logs and docker top show how a container is"
_ENGINE = "the engine is the one that the operator chose"
_ENDING = "docker stop says how a container is ended, with TERM and then KILL"
_WINDOWS = "it is for containers of Windows"
_SIZES = "it makes the engine walk every file"
_OPERATORS = "the engine itself is the operator's"
_IMAGES = "images are the operator's"
_SETTLED = "containers are not changed or entered once they run"


def _each(names: str, why: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), why)


OF_RUN: Mapping[str, str] = {
    **_each("-v --volume --mount --volumes-from --volume-driver --use-api-socket", HOST_FILES),
    **_each("--env-file --label-file --cidfile", HOST_FILES),
    **_each("--tmpfs", "one is there, in memory and bounded: use that"),
    **_each("--privileged --cap-add --device --device-cgroup-rule --gpus --group-add", PRIVILEGE),
    **_each("--userns --sysctl", PRIVILEGE),
    **_each("--pid --ipc --uts --cgroupns --cgroup-parent", NAMESPACE),
    **_each("-p --publish -P --publish-all --expose --link --link-local-ip", NAMESPACE),
    **_each("--add-host --dns --dns-option --dns-opt --dns-search --network-alias", NAMESPACE),
    **_each("--net-alias --ip --ip6 --mac-address -h --hostname --domainname", NAMESPACE),
    **_each("-i --interactive -t --tty -a --attach --detach-keys --sig-proxy", _TERMINAL),
    **_each("-l --label --annotation", _LABELS),
    **_each("--runtime --isolation --platform", _ENGINE),
    **_each("--disable-content-trust", _IMAGES),
    **_each("-c --cpu-shares --cpu-period --cpu-quota --cpu-rt-period --cpu-rt-runtime", _LIMITS),
    **_each("--cpuset-cpus --cpuset-mems --memory-reservation --memory-swappiness", _LIMITS),
    **_each("--kernel-memory --ulimit --shm-size --oom-score-adj", _LIMITS),
    **_each("--blkio-weight --blkio-weight-device --device-read-bps --device-read-iops", _LIMITS),
    **_each("--device-write-bps --device-write-iops", _LIMITS),
    **_each("--memory-swap", "a container has no swap"),
    **_each("--oom-kill-disable", "a container that needs too much memory has to end"),
    **_each("--cpu-count --cpu-percent --io-maxbandwidth --io-maxiops", _WINDOWS),
    **_each("--health-cmd --health-interval --health-retries --health-timeout", _HEALTH),
    **_each("--health-start-interval --health-start-period", _HEALTH),
    **_each("--log-driver --log-opt", _LOGS),
    **_each("--stop-signal --stop-timeout", _ENDING),
    **_each("--storage-opt", "the container's file system is read-only"),
}

OF_PS = _each("-s --size", _SIZES)
OF_IMAGES = {
    **_each("-f --filter", "give a name, as in `images alpine`"),
    **_each("--digests --tree", "--no-trunc shows whole ids"),
}
OF_LOGS = {
    **_each("-f --follow", "a tool call answers once: ask again for what came since"),
    **_each("--since --until", "logs are short: use --tail, and --timestamps"),
    **_each("--details", "there is nothing more than the lines"),
}
OF_INSPECT = _each("-s --size", _SIZES)
OF_START = {
    **_each("-a --attach", "it runs in the background: docker logs shows what it writes"),
    **_each("-i --interactive --detach-keys", _TERMINAL),
    **_each("--checkpoint --checkpoint-dir", _ENGINE),
}
OF_ENDING = _each("-s --signal", "it is TERM, and then KILL")
OF_RM = _each("-l --link", "containers have no links")

COMMANDS: Mapping[str, str] = {
    **_each("exec attach cp export commit diff update rename pause unpause", _SETTLED),
    **_each("create", "run makes a container and starts it"),
    **_each("kill", "stop ends a container, rm --force ends and removes it at once"),
    **_each("wait", "run without --detach waits; ps -a shows who has ended"),
    "container": "which of its commands is not said, or not one of the CLI's",
    "container prune": "rm removes the containers that you name",
    **_each("pull push build load import save tag rmi login logout search history", _IMAGES),
    **_each("image manifest trust builder buildx scout", _IMAGES),
    **_each("network volume plugin swarm node service stack secret config", _OPERATORS),
    **_each("context events checkpoint system", _OPERATORS),
    **_each("compose", "containers are run one at a time, with run"),
}
"""By the command's name, or a group's: in `volume create` what is said of the first word counts."""
