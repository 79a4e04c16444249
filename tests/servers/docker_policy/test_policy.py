"""The pure parts: images' names, hardening, what is shown, and whose is it."""

from __future__ import annotations

import copy
import os
import platform
from typing import Any

import pytest

from servers.docker_policy import hardening, ownership, show
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
    assert Allowlist.of(patterns).permits(image) is allowed


def test_names_that_mean_the_same_are_the_same() -> None:
    assert normal("docker.io/library/alpine") == normal("alpine:latest") == "alpine:latest"
    assert is_named("alpine", ["docker.io/library/alpine:latest"])
    assert not is_named("deadbeef", ["alpine:latest"])


ENVELOPE = hardening.Envelope()


def as_the_engine_says(**host: Any) -> dict[str, Any]:
    config = copy.deepcopy(hardening.host_config(ENVELOPE, {"/tmp": "size=1"}))
    return {"HostConfig": {**config, **host}, "Config": {"User": hardening.USER}, "Mounts": []}


def test_a_container_as_it_was_asked_for_has_no_deviations() -> None:
    assert hardening.deviations(as_the_engine_says(), ENVELOPE) == []


@pytest.mark.parametrize(
    "host",
    [
        {"Privileged": True},
        {"Binds": ["/:/host"]},
        {"Mounts": [{"Type": "bind"}]},
        {"CapAdd": ["SYS_ADMIN"]},
        {"CapDrop": []},
        {"Devices": [{"PathOnHost": "/dev/sda"}]},
        {"NetworkMode": "host"},
        {"PidMode": "host"},
        {"IpcMode": "host"},
        {"UsernsMode": "host"},
        {"ReadonlyRootfs": False},
        {"Memory": 0},
        {"MemorySwap": -1},
        {"NanoCpus": 0},
        {"PidsLimit": None},
        {"SecurityOpt": ["no-new-privileges:true"]},
        {"SecurityOpt": ["seccomp=unconfined", "no-new-privileges:true"]},
        {"SecurityOpt": ["seccomp={}"]},
        {"SecurityOpt": None},
        {"Init": None},
        {"PortBindings": {"80/tcp": [{"HostPort": "80"}]}},
        {"VolumesFrom": ["other"]},
        {"LogConfig": {"Type": "syslog", "Config": {}}},
    ],
)
def test_any_weaker_setting_is_a_deviation(host: dict[str, Any]) -> None:
    assert hardening.deviations(as_the_engine_says(**host), ENVELOPE)


def test_a_volume_and_another_user_are_deviations() -> None:
    inspected = as_the_engine_says()
    inspected["Config"]["User"] = "0"
    inspected["Mounts"] = [{"Type": "volume", "Destination": "/data"}]
    assert len(hardening.deviations(inspected, ENVELOPE)) == 2


@pytest.mark.parametrize(
    ("variable", "shown"),
    [
        ("COLOR=blue", "COLOR=blue"),
        ("API_KEY=x", "API_KEY=********"),
        ("db_password=x=y", "db_password=********"),
        ("GitHubToken=x", "GitHubToken=********"),
        ("URL=postgres://u:secret@host/db", "URL=postgres://u:********@host/db"),
        ("EMPTY=", "EMPTY="),
    ],
)
def test_secrets_in_the_environment_are_masked(variable: str, shown: str) -> None:
    assert show.masked(variable) == shown


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
