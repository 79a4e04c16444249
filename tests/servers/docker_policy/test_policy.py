"""The pure parts: images' names, hardening, what is shown, and whose is it."""

from __future__ import annotations

import copy
import os
import platform
from typing import Any

import pytest

from servers.docker_policy import container, hardening, lifeline, ownership, show
from servers.docker_policy.images import Allowlist, is_named, normal


@pytest.mark.parametrize(
    ("patterns", "image", "allowed"),
    [
        ("alpine", "alpine", True),
        ("alpine", "alpine:3.20", True),
        ("alpine", "docker.io/library/alpine:3", True),
        ("alpine", "index.docker.io/library/alpine", True),
        ("docker.io/library/alpine", "alpine", True),
        ("alpine", "evil/alpine", False),
        ("alpine", "evil.example/library/alpine", False),
        ("alpine", "alpine-evil", False),
        ("alpine", "docker.io/evil/alpine", False),
        ("alpine:3.*", "alpine:3.20", True),
        ("alpine:3.*", "alpine:4", False),
        ("alpine:3.*", "alpine", False),
        ("alpine:latest", "alpine", True),
        ("registry:5000/team/*", "registry:5000/team/app:1", True),
        ("registry:5000/team/*", "registry:5000/other/app", False),
        ("a, b", "b", True),
        ("", "alpine", False),
        ("*", "anything/at:all", True),
    ],
)
def test_an_image_is_allowed_by_its_normal_name(patterns: str, image: str, allowed: bool) -> None:
    assert Allowlist.of(patterns).names(image) is allowed
    assert Allowlist.of(patterns).permits(image, []) is allowed


A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64


@pytest.mark.parametrize(
    ("pattern", "image", "digests", "named", "allowed"),
    [
        (f"alpine@{A}", "alpine", [f"alpine@{A}"], True, True),
        (f"alpine@{A}", "alpine:3", [f"docker.io/library/alpine@{A}"], True, True),
        (f"alpine@{A}", f"alpine@{A}", [f"alpine@{A}"], True, True),
        (f"alpine@{A}", "alpine", [f"alpine@{B}"], True, False),
        (f"alpine@{A}", "alpine", [], True, False),
        (f"alpine@{A}", f"alpine@{B}", [f"alpine@{B}"], True, False),
        (f"alpine@{A}", f"evil@{A}", [f"evil@{A}"], False, False),
        (f"alpine:3@{A}", "alpine:3", [f"alpine@{A}"], True, True),
        (f"alpine:3@{A}", f"alpine@{A}", [f"alpine@{A}"], True, True),
        (f"alpine:3@{A}", "alpine:4", [f"alpine@{A}"], False, False),
        (f"alpine@{A},alpine@{B}", "alpine", [f"alpine@{B}"], True, True),
        ("alpine:3", f"alpine:3@{A}", [f"alpine@{A}"], False, False),
    ],
)
def test_a_pattern_with_a_digest_allows_that_image_only(
    pattern: str, image: str, digests: list[str], named: bool, allowed: bool
) -> None:
    assert Allowlist.of(pattern).names(image) is named
    assert Allowlist.of(pattern).permits(image, digests) is allowed


def test_names_that_mean_the_same_are_the_same() -> None:
    assert normal("docker.io/library/alpine") == normal("alpine:latest") == "alpine:latest"
    assert is_named("alpine", ["docker.io/library/alpine:latest"])
    assert not is_named("deadbeef", ["alpine:latest"])


ASKED = {
    **container.config("i", ["x"], hardening.host_config(hardening.Envelope(), {"/tmp": "size=1"})),
    "WorkingDir": "/",
}

# What a real engine (20.10) adds to what it was asked for.
ENGINES_OWN: dict[str, Any] = {
    **{"Binds": None, "ContainerIDFile": "", "PortBindings": None, "VolumeDriver": ""},
    **{"VolumesFrom": None, "CapAdd": None, "Dns": None, "DnsOptions": None, "DnsSearch": None},
    **{"ExtraHosts": None, "GroupAdd": None, "Cgroup": "", "Links": None, "OomScoreAdj": 0},
    **{"PidMode": "", "PublishAllPorts": False, "UTSMode": "", "UsernsMode": "", "Isolation": ""},
    **{"Runtime": "runc", "ConsoleSize": [0, 0], "CpuShares": 0, "CgroupParent": ""},
    **{"BlkioWeight": 0, "Devices": None, "DeviceCgroupRules": None, "DeviceRequests": None},
    **{"KernelMemory": 0, "MemoryReservation": 0, "MemorySwappiness": None, "CpuPeriod": 0},
    **{"OomKillDisable": False, "CpuQuota": 0, "CpusetCpus": "", "IOMaximumIOps": 0},
    "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
    "MaskedPaths": [
        *("/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats"),
        *("/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware"),
    ],
    "ReadonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
}


# What engines 23 to 29 say otherwise, by their API (1.42 to 1.54): keys that came, and other words
# for nothing. A machine of control groups version 2 has no OomKillDisable.
NEWER: dict[str, Any] = {
    **{"PortBindings": {}, "Dns": [], "DnsOptions": [], "DnsSearch": [], "Devices": []},
    **{"BlkioWeightDevice": [], "BlkioDeviceReadBps": [], "BlkioDeviceWriteBps": []},
    **{"BlkioDeviceReadIOps": [], "BlkioDeviceWriteIOps": [], "OomKillDisable": None},
    **{"CpuRealtimePeriod": 0, "CpuRealtimeRuntime": 0, "CpuCount": 0, "CpuPercent": 0},
    **{"IOMaximumBandwidth": 0, "KernelMemoryTCP": 0, "Annotations": {}, "Umask": None},
    "MaskedPaths": [
        *(*ENGINES_OWN["MaskedPaths"], "/proc/scsi", "/proc/interrupts"),
        "/sys/devices/virtual/powercap",
    ],
}


def as_the_engine_says(**host: Any) -> dict[str, Any]:
    asked = copy.deepcopy(ASKED)
    config = {key: value for key, value in asked.items() if key != "HostConfig"}
    return {
        "HostConfig": {**asked["HostConfig"], **ENGINES_OWN, **host},
        "Config": {**config, "Tty": False, "Hostname": "0123"},
        "Mounts": [],
    }


def test_a_container_as_it_was_asked_for_has_no_deviations() -> None:
    assert hardening.deviations(as_the_engine_says(), ASKED) == []
    strict = {**ASKED, "HostConfig": {**ASKED["HostConfig"], "Runtime": "runsc"}}
    assert hardening.deviations(as_the_engine_says(), strict) == ["Runtime is runc"]
    other = {"Runtime": "runsc", "MemorySwappiness": -1, "Devices": [], "Annotations": None}
    assert hardening.deviations(as_the_engine_says(**other), ASKED) == []


def test_newer_engines_say_nothing_in_other_words() -> None:
    inspected = as_the_engine_says(**NEWER)
    del inspected["HostConfig"]["KernelMemory"]
    assert hardening.deviations(inspected, ASKED) == []


NOTHING: list[Any] = [None, False, 0, 0.0, "", [], {}, {"A": None, "B": {"C": 0, "D": []}}]


@pytest.mark.parametrize("value", NOTHING, ids=repr)
def test_a_key_that_nobody_knows_yet_may_say_nothing(value: Any) -> None:
    assert hardening.deviations(as_the_engine_says(Newest=value), ASKED) == []
    settings = {**ASKED["HostConfig"]["LogConfig"], "Newest": value}
    assert hardening.deviations(as_the_engine_says(LogConfig=settings), ASKED) == []
    cores, *others = ASKED["HostConfig"]["Ulimits"]
    limits = [{**cores, "Newest": value}, *others]
    assert hardening.deviations(as_the_engine_says(Ulimits=limits), ASKED) == []


SOMETHING: list[Any] = [True, 1, -1, "x", [None], [{}], {"A": True}, {"A": {"B": [0]}}]


@pytest.mark.parametrize("value", SOMETHING, ids=repr)
def test_a_key_that_nobody_knows_yet_may_set_nothing(value: Any) -> None:
    (found,) = hardening.deviations(as_the_engine_says(Newest=value), ASKED)
    assert found == f"Newest is {value}"
    cores, *others = ASKED["HostConfig"]["Ulimits"]
    limits = [{**cores, "Newest": value}, *others]
    (found,) = hardening.deviations(as_the_engine_says(Ulimits=limits), ASKED)
    assert found.startswith("Ulimits is ")


@pytest.mark.parametrize(
    "host",
    [
        {"Privileged": True},
        {"Binds": ["/:/host"]},
        {"Mounts": [{"Type": "bind"}]},
        {"Mounts": [{"Type": "volume", "VolumeOptions": {"DriverConfig": {}}}]},
        {"CapAdd": ["SYS_ADMIN"]},
        {"CapDrop": []},
        {"Devices": [{"PathOnHost": "/dev/sda"}]},
        {"DeviceRequests": [{"Count": -1}]},
        {"DeviceCgroupRules": ["a *:* rwm"]},
        {"NetworkMode": "host"},
        {"NetworkMode": "default"},
        {"PidMode": "host"},
        {"IpcMode": "host"},
        {"IpcMode": "shareable"},
        {"UTSMode": "host"},
        {"UsernsMode": "host"},
        {"CgroupnsMode": "host"},
        {"CgroupParent": "/"},
        {"ReadonlyRootfs": False},
        {"Memory": 0},
        {"Memory": 1 << 40},
        {"MemorySwap": -1},
        {"NanoCpus": 0},
        {"PidsLimit": None},
        {"PidsLimit": -1},
        {"ShmSize": 1 << 40},
        {"Tmpfs": {}},
        {"Tmpfs": {"/tmp": "size=1", "/etc": "size=1"}},
        {"Ulimits": None},
        {"Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}]},
        {"Ulimits": [*ASKED["HostConfig"]["Ulimits"], {}]},
        {"Ulimits": [{}, *ASKED["HostConfig"]["Ulimits"][1:]]},
        {"SecurityOpt": ["no-new-privileges:true"]},
        {"SecurityOpt": ["seccomp=unconfined", "no-new-privileges:true"]},
        {"SecurityOpt": ["no-new-privileges:true", "seccomp={}"]},
        {"SecurityOpt": [*ASKED["HostConfig"]["SecurityOpt"], "apparmor=unconfined"]},
        {"SecurityOpt": None},
        {"Init": None},
        {"AutoRemove": True},
        {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 0}},
        {"RestartPolicy": {"Name": "no", "MaximumRetryCount": 5}},
        {"PortBindings": {"80/tcp": [{"HostPort": "80"}]}},
        {"PublishAllPorts": True},
        {"VolumesFrom": ["other"]},
        {"GroupAdd": ["docker"]},
        {"ExtraHosts": ["a:1.2.3.4"]},
        {"Sysctls": {"kernel.msgmax": "1"}},
        {"StorageOpt": {"size": "1T"}},
        {"OomKillDisable": True},
        {"OomScoreAdj": -1000},
        {"MaskedPaths": []},
        {"MaskedPaths": None},
        {"ReadonlyPaths": []},
        {"LogConfig": {"Type": "syslog", "Config": {}}},
        {"LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "100"}}},
        {"SomethingNew": "open"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_any_other_setting_is_a_deviation(host: dict[str, Any]) -> None:
    (found,) = hardening.deviations(as_the_engine_says(**host), ASKED)
    assert found.startswith(next(iter(host)))


@pytest.mark.parametrize("key", list(ASKED["HostConfig"]))
def test_a_setting_that_the_engine_left_out_is_a_deviation(key: str) -> None:
    inspected = as_the_engine_says()
    del inspected["HostConfig"][key]
    wanted = [key] if ASKED["HostConfig"][key] else []
    assert [found.split()[0] for found in hardening.deviations(inspected, ASKED)] == wanted


@pytest.mark.parametrize(
    "config",
    [
        {"User": "0"},
        {"User": ""},
        {"Entrypoint": ["y"]},
        {"Cmd": ["y"]},
        {"OpenStdin": False},
        {"StdinOnce": False},
        {"Tty": True},
        {"WorkingDir": "/x"},
        {"Healthcheck": None},
        {"Healthcheck": {"Test": ["CMD", "x"]}},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_another_user_program_or_standard_input_is_a_deviation(config: dict[str, Any]) -> None:
    inspected = as_the_engine_says()
    inspected["Config"].update(config)
    assert len(hardening.deviations(inspected, ASKED)) == 1


def test_paths_that_were_asked_for_are_those_and_no_others() -> None:
    chosen = {"MaskedPaths": ["/sys/firmware"], "ReadonlyPaths": []}
    asked = {**ASKED, "HostConfig": {**ASKED["HostConfig"], **chosen}}
    assert hardening.deviations(as_the_engine_says(**chosen), asked) == []
    others: tuple[dict[str, list[str]], ...]
    others = ({"MaskedPaths": []}, {"ReadonlyPaths": ["/proc/sys"]})
    for other in others:
        assert len(hardening.deviations(as_the_engine_says(**{**chosen, **other}), asked)) == 1
    assert len(hardening.deviations(as_the_engine_says(**chosen), ASKED)) == 2


def test_what_is_mounted_is_in_memory() -> None:
    inspected = as_the_engine_says()
    inspected["Mounts"] = [
        {"Type": kind, "Destination": "/x"} for kind in ("volume", "bind", "tmpfs")
    ]
    assert len(hardening.deviations(inspected, ASKED)) == 2


def test_a_folder_that_was_asked_for_is_mounted_read_only_and_from_its_place() -> None:
    folder = {"Type": "bind", "Source": "/packages/x", "Target": "/y", "ReadOnly": True}
    asked = {**ASKED, "HostConfig": {**ASKED["HostConfig"], "Mounts": [folder]}}
    inspected = as_the_engine_says(Mounts=[folder])
    real = {"Type": "bind", "Source": "/packages/x", "Destination": "/y", "RW": False}
    inspected["Mounts"] = [real]
    assert hardening.deviations(inspected, asked) == []
    for other in ({"RW": True}, {"Source": "/"}, {"Destination": "/etc"}, {"Type": "volume"}):
        inspected["Mounts"] = [{**real, **other}]
        assert len(hardening.deviations(inspected, asked)) == 1
    inspected = as_the_engine_says(Mounts=[{**folder, "ReadOnly": False}])
    assert len(hardening.deviations(inspected, asked)) == 1


@pytest.mark.parametrize(
    ("variable", "shown"),
    [
        ("COLOR=blue", "COLOR=blue"),
        ("API_KEY=x", "API_KEY=********"),
        ("db_password=x=y", "db_password=********"),
        ("GitHubToken=x", "GitHubToken=********"),
        ("URL=postgres://u:secret@host/db", "URL=postgres://u:********@host/db"),
        ("URL=redis://:a/b@c@host:1/0", "URL=redis://:********@host:1/0"),
        ("ORIGIN=https://ghp_x@host/repo", "ORIGIN=https://********@host/repo"),
        ("HOME=https://host:80/path", "HOME=https://host:80/path"),
        ("EMPTY=", "EMPTY="),
    ],
)
def test_secrets_in_the_environment_are_masked(variable: str, shown: str) -> None:
    assert show.masked(variable) == shown


@pytest.mark.parametrize("cache", [{"inactive_file": 24 << 20}, {"total_inactive_file": 24 << 20}])
def test_stats_are_reckoned_as_the_cli_does(cache: dict[str, int]) -> None:
    measured = {
        "cpu_stats": {
            "cpu_usage": {"total_usage": 3_000},
            "system_cpu_usage": 20_000,
            "online_cpus": 2,
        },
        "precpu_stats": {"cpu_usage": {"total_usage": 1_000}, "system_cpu_usage": 10_000},
        "memory_stats": {"usage": 32 << 20, "limit": 64 << 20, "stats": cache},
        "pids_stats": {"current": 4},
    }
    row = show.stats_row({"Id": "0" * 64, "Labels": {"mcpcp.name": "web"}}, measured, full=False)
    assert list(row) == list(show.STATS)
    assert list(row.values()) == ["0" * 12, "web", "40.00%", "8.00MiB / 64.00MiB", "12.50%", "4"]


def test_stats_of_what_does_not_run_are_nothing() -> None:
    row = show.stats_row({"Id": "0" * 64, "Labels": {}}, {}, full=True)
    assert list(row.values())[2:] == ["0.00%", "0.00MiB / 0.00MiB", "0.00%", "0"]


def test_our_lines_of_shell_are_not_shown_whole_or_cut() -> None:
    whole = " ".join(lifeline.around(["sleep", "600"]))
    for command, shown in (
        (whole, "/bin/sh -c (lifeline) sleep 600"),
        (" ".join(whole.split()), "/bin/sh -c (lifeline) sleep 600"),
        (f"/sbin/docker-init -- {whole}", "/sbin/docker-init -- /bin/sh -c (lifeline) sleep 600"),
        (whole[:100], "/bin/sh -c (lifeline)"),
        (" ".join(whole.split())[:32], "/bin/sh -c (lifeline)"),
        ("sleep 600", "sleep 600"),
    ):
        assert lifeline.shortened(command) == shown


def test_a_table_is_as_wide_as_its_words() -> None:
    rows = [{"A": "long word", "B": "x"}]
    assert show.table(("A", "B"), rows) == "A           B\nlong word   x\n"


def test_a_living_maker_is_no_orphan_and_a_dead_one_is() -> None:
    mine = ownership.maker()
    node, pid, created = mine.rsplit("/", 2)
    assert (node, pid) == (platform.node(), str(os.getpid()))
    assert not ownership.is_orphan(mine)
    assert ownership.is_orphan(f"{node}/{pid}/1.00"), "another process had that pid"
    assert ownership.is_orphan(f"{node}/4194305/{created}")
    assert not ownership.is_orphan(f"elsewhere/{pid}/1.00")
    assert not ownership.is_orphan("")
