"""The filter's numbers and rules."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import pytest

from servers.sandboxing import seccomp
from servers.sandboxing.seccomp import MAKES_SANDBOXES

HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
ALLOW, KILL = 0x7FFF0000, 0x80000000
EPERM, ENOSYS, EAFNOSUPPORT, EPROTONOSUPPORT = 0x50001, 0x50026, 0x50061, 0x5005D
ENOMEM, UNHEARD = 0x5000C, 0x50000


def judge(machine: str, number: int, *arguments: int, arch: int | None = None) -> int:
    """What the filter answers: a small interpreter of the few operations that it uses."""
    data = struct.pack(
        "=IIQ6Q",
        number,
        arch or seccomp.MACHINES[machine].audit_arch,
        0,
        *arguments,
        *[0] * (6 - len(arguments)),
    )
    program = list(struct.iter_unpack("=HBBI", seccomp.bpf(machine)))
    at = word = 0
    while True:
        code, if_true, if_false, value = program[at]
        at += 1
        if code == 0x06:
            return int(value)
        if code == 0x20:
            word = struct.unpack_from("=I", data, value)[0]
            continue
        holds = {0x15: word == value, 0x25: word > value, 0x45: bool(word & value)}[code]
        at += if_true if holds else if_false


@pytest.mark.parametrize("machine", HEADERS)
def test_the_numbers_are_the_kernels(machine: str) -> None:
    if not HEADERS[machine].exists():
        pytest.skip("no kernel headers here")
    text = HEADERS[machine].read_text()
    names = dict(re.findall(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)", text, re.MULTILINE))
    column = seccomp.MACHINES[machine].column
    judged = {name: numbers[column] for name, numbers in seccomp.OF_PROCESSES.items()}
    judged |= {name: numbers[column] for name, (numbers, _, _) in seccomp.HUGE_PAGES.items()}
    for name in ("clone", "clone3", "socket", "socketpair", "setsockopt", "ioctl", "setpriority"):
        judged[name] = getattr(seccomp, name.upper())[column]
    for name, number in {**seccomp.denied_numbers(seccomp.MACHINES[machine]), **judged}.items():
        assert names[name] == str(number), name


@pytest.mark.parametrize("machine", seccomp.MACHINES)
def test_denied_calls_are_denied_and_others_allowed(machine: str) -> None:
    column = seccomp.MACHINES[machine].column
    denied = seccomp.denied_numbers(seccomp.MACHINES[machine])
    for number in denied.values():
        assert judge(machine, number) == EPERM
    makes_sockets = {seccomp.SOCKET[column], seccomp.SOCKETPAIR[column]}
    special = {seccomp.CLONE3[column], *makes_sockets, *denied.values()}
    for number in set(range(seccomp.NEWEST_KNOWN + 1)) - special:
        assert judge(machine, number) == ALLOW
    assert judge(machine, seccomp.NEWEST_KNOWN + 1) == ENOSYS
    assert judge(machine, seccomp.CLONE3[column] or 0) == ENOSYS


@pytest.mark.parametrize("machine", seccomp.MACHINES)
def test_arguments_are_judged_where_they_matter(machine: str) -> None:
    column = seccomp.MACHINES[machine].column
    clone, ioctl = (n[column] or 0 for n in (seccomp.CLONE, seccomp.IOCTL))
    assert judge(machine, clone, 0x003D0F00) == ALLOW, "a thread"
    for flag in seccomp.NAMESPACE_FLAGS:
        assert judge(machine, clone, flag | 17) == EPERM
    assert judge(machine, ioctl, 0, 0x5412) == EPERM
    assert judge(machine, ioctl, 0, 0x5401) == ALLOW


@pytest.mark.parametrize("machine", seccomp.MACHINES)
@pytest.mark.parametrize("way", [seccomp.SOCKET, seccomp.SOCKETPAIR])
def test_sockets_are_judged_whichever_way_they_are_made(machine: str, way: seccomp.Numbers) -> None:
    number = way[seccomp.MACHINES[machine].column] or 0
    families = {f: judge(machine, number, f) for f in range(64)}
    assert {f for f, action in families.items() if action == ALLOW} == {1, 2, 10}
    assert set(families.values()) == {ALLOW, EAFNOSUPPORT}
    assert judge(machine, number, 40 + (1 << 32)) == EAFNOSUPPORT
    for protocol in (132, 262, 262 + (1 << 32)):
        assert judge(machine, number, 2, 1, protocol) == EPROTONOSUPPORT
    assert judge(machine, number, 2, 1, 6) == judge(machine, number, 2, 2, 17) == ALLOW


@pytest.mark.parametrize("machine", seccomp.MACHINES)
def test_wishes_for_larger_buffers_are_not_heard(machine: str) -> None:
    number = seccomp.SETSOCKOPT[seccomp.MACHINES[machine].column] or 0
    assert judge(machine, number, 3, 1, 7) == judge(machine, number, 3, 1, 8) == UNHEARD
    assert judge(machine, number, 3, 1, 2) == judge(machine, number, 3, 6, 7) == ALLOW


@pytest.mark.parametrize("machine", seccomp.MACHINES)
def test_the_first_process_is_out_of_reach(machine: str) -> None:
    column = seccomp.MACHINES[machine].column
    for numbers in seccomp.OF_PROCESSES.values():
        number = numbers[column] or 0
        assert judge(machine, number, 1) == judge(machine, number, 1 + (1 << 32)) == EPERM
        assert judge(machine, number, 0) == judge(machine, number, 2) == ALLOW
    priority = seccomp.SETPRIORITY[column] or 0
    assert judge(machine, priority, 0, 1) == judge(machine, priority, 2, 0) == EPERM
    assert judge(machine, priority, 0, 0) == judge(machine, priority, 1, 0) == ALLOW


@pytest.mark.parametrize("machine", seccomp.MACHINES)
def test_huge_pages_are_as_if_there_were_none(machine: str) -> None:
    column = seccomp.MACHINES[machine].column
    for numbers, argument, flag in seccomp.HUGE_PAGES.values():
        number = numbers[column] or 0
        assert judge(machine, number, *[0] * argument, flag | 1) == ENOMEM
        assert judge(machine, number, *[0] * argument, 0x22 & ~flag) == ALLOW


def test_other_architectures_are_killed() -> None:
    assert judge("x86_64", 1, arch=0x40000003) == KILL, "i386"
    assert judge("x86_64", seccomp.X32_BIT | 1) == KILL
    assert judge("aarch64", 1, arch=0x40000028) == KILL, "arm"


def test_the_docker_profile_denies_the_same() -> None:
    profile = json.loads(seccomp.docker_profile())
    named = {name for rule in profile["syscalls"] for name in rule["names"]}
    assert {name for group in seccomp.DENIED.values() for name in group} <= named
    rules = [r for r in profile["syscalls"] if r["names"] == ["socket", "socketpair"]]
    families = {r["args"][0]["value"] for r in rules if r["args"][0]["index"] == 0}
    assert 40 in families and not {1, 2, 10} & families
    protocols = {r["args"][0]["valueTwo"] for r in rules if r["args"][0]["index"] == 2}
    assert protocols == set(seccomp.DENIED_PROTOCOLS)


def test_the_profile_for_makers_of_sandboxes_leaves_them_two_calls_more() -> None:
    def denied(profile: str) -> set[str]:
        rules = json.loads(profile)["syscalls"]
        return {name for rule in rules if "args" not in rule for name in rule["names"]}

    strict, lenient = seccomp.docker_profile(), seccomp.docker_profile(without=MAKES_SANDBOXES)
    assert denied(strict) - denied(lenient) == {"mount", "unshare"}
    assert denied(lenient) <= denied(strict)
