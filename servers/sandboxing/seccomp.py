"""The system calls that sandboxed programs must not make: as a BPF filter and as a Docker profile.

A sandbox has no capabilities, so most of these would fail anyway: the filter is there for the day
when one of them has a bug. What is not denied is allowed, except system calls newer than this list.
"""

from __future__ import annotations

import json
import platform
import struct
from dataclasses import dataclass
from errno import EAFNOSUPPORT, ENOMEM, ENOSYS, EPERM, EPROTONOSUPPORT

# name: (number on x86_64, number on aarch64); None where the machine has no such call.
Numbers = tuple[int | None, int | None]

DENIED: dict[str, dict[str, Numbers]] = {
    "looks into or steers other processes": {
        "ptrace": (101, 117),
        "process_vm_readv": (310, 270),
        "process_vm_writev": (311, 271),
        "process_madvise": (440, 440),
        "kcmp": (312, 272),
        "pidfd_getfd": (438, 438),
        "lookup_dcookie": (212, 18),
    },
    "makes namespaces or mounts": {
        "unshare": (272, 97),
        "setns": (308, 268),
        "mount": (165, 40),
        "umount2": (166, 39),
        "pivot_root": (155, 41),
        "chroot": (161, 51),
        "open_tree": (428, 428),
        "move_mount": (429, 429),
        "fsopen": (430, 430),
        "fsconfig": (431, 431),
        "fsmount": (432, 432),
        "fspick": (433, 433),
        "mount_setattr": (442, 442),
        "swapon": (167, 224),
        "swapoff": (168, 225),
        "quotactl": (179, 60),
        "quotactl_fd": (443, 443),
    },
    "opens files around their paths": {
        "name_to_handle_at": (303, 264),
        "open_by_handle_at": (304, 265),
        "fanotify_init": (300, 262),
        "fanotify_mark": (301, 263),
    },
    "keyrings are not namespaced": {
        "add_key": (248, 217),
        "request_key": (249, 218),
        "keyctl": (250, 219),
    },
    "changes the kernel": {
        "init_module": (175, 105),
        "finit_module": (313, 273),
        "delete_module": (176, 106),
        "create_module": (174, None),
        "get_kernel_syms": (177, None),
        "query_module": (178, None),
        "kexec_load": (246, 104),
        "kexec_file_load": (320, 294),
        "reboot": (169, 142),
        "acct": (163, 89),
        "syslog": (103, 116),
        "sysfs": (139, None),
        "_sysctl": (156, None),
        "ustat": (136, None),
        "uselib": (134, None),
        "nfsservctl": (180, 42),
        "vserver": (236, None),
    },
    "large interfaces with a history of holes": {
        "bpf": (321, 280),
        "perf_event_open": (298, 241),
        "userfaultfd": (323, 282),
        "io_uring_setup": (425, 425),
        "io_uring_enter": (426, 426),
        "io_uring_register": (427, 427),
        "memfd_secret": (447, 447),
        "vmsplice": (278, 75),
    },
    "takes what the whole machine shares": {
        "io_setup": (206, 0),
        "sync": (162, 81),
        "syncfs": (306, 267),
    },
    "sets clocks": {
        "settimeofday": (164, 170),
        "clock_settime": (227, 112),
        "clock_adjtime": (305, 266),
        "adjtimex": (159, 171),
    },
    "changes the machine": {
        "iopl": (172, None),
        "ioperm": (173, None),
        "modify_ldt": (154, None),
        "personality": (135, 92),
        "sethostname": (170, 161),
        "setdomainname": (171, 162),
        "vhangup": (153, 58),
        "mbind": (237, 235),
        "migrate_pages": (256, 238),
        "move_pages": (279, 239),
        "set_mempolicy": (238, 237),
        "set_mempolicy_home_node": (450, 450),
    },
}

OF_PROCESSES: dict[str, Numbers] = {
    "prlimit64": (302, 261),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
}
"""What may be done to any process of the same user, by its number: but not to the first, whose
limits and share of the processor are what it watches the others with."""

HUGE_PAGES: dict[str, tuple[Numbers, int, int]] = {
    "mmap": ((9, 222), 3, 0x40000),
    "memfd_create": ((319, 279), 1, 0x4),
    "shmget": ((29, 194), 2, 0x800),
}
"""How to ask for them: by which argument, and which bit of it. The machine's were set aside for
others, and no limit of memory counts them."""

SETPRIORITY: Numbers = (141, 140)
OF_A_USER = 2
"""PRIO_USER: all processes of the user, the first one among them."""

NEWER_CALLS = [
    "cachestat",
    "map_shadow_stack",
    "futex_wake",
    "futex_wait",
    "futex_requeue",
    "statmount",
    "listmount",
    "lsm_get_self_attr",
    "lsm_set_self_attr",
    "lsm_list_modules",
    "mseal",
    "open_tree_attr",
]
"""Docker profiles can't say "newer than": these are the names that we know of."""

NEWEST_KNOWN = 450

CLONE: Numbers = (56, 220)
CLONE3: Numbers = (435, 435)
SOCKET: Numbers = (41, 198)
SOCKETPAIR: Numbers = (53, 199)
SETSOCKOPT: Numbers = (54, 208)
IOCTL: Numbers = (16, 29)

# CLONE_NEW* as clone(2) takes them: NS, CGROUP, UTS, IPC, USER, PID, NET.
NAMESPACE_FLAGS = (
    0x00020000,
    0x02000000,
    0x04000000,
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
ALLOWED_FAMILIES = (1, 2, 10)
"""AF_UNIX, AF_INET, AF_INET6: the network namespace holds loopback only."""

DENIED_PROTOCOLS = (33, 132, 136, 262)
"""DCCP, SCTP, UDP-Lite, MPTCP: seldom needed, and with a history of holes."""

SOL_SOCKET = 1
BUFFER_SIZES = (7, 8)
"""SO_SNDBUF, SO_RCVBUF. The kernel takes them as wishes, so not to follow one is no error."""

TERMINAL_INJECTION = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX put words into a terminal's input."""

X32_BIT = 0x40000000


@dataclass(frozen=True, slots=True)
class Machine:
    """How one kind of processor numbers system calls; `column` picks from `Numbers`."""

    audit_arch: int
    column: int


MACHINES = {"x86_64": Machine(0xC000003E, 0), "aarch64": Machine(0xC00000B7, 1)}

# struct seccomp_data, with the arguments' low words: the kernel reads these as 32-bit values.
_NUMBER, _ARCH, _ARG0, _ARG1, _ARG2 = 0, 4, 16, 24, 32

# linux/filter.h: operation codes as bubblewrap hands them to the kernel.
_LOAD, _RETURN = 0x20, 0x06
_JUMP_EQUAL, _JUMP_GREATER, _JUMP_ANY_BIT = 0x15, 0x25, 0x45

_ALLOW, _KILL = 0x7FFF0000, 0x80000000


def _errno(number: int) -> int:
    return 0x00050000 | number


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _when(jump: int, value: int, action: int) -> list[bytes]:
    """Ends with `action` when the loaded word matches, else goes on."""
    return [_op(jump, value, 0, 1), _op(_RETURN, action)]


def _unless_any(values: tuple[int, ...], action: int) -> list[bytes]:
    """Ends with allowed when the loaded word is one of `values`, else with `action`."""
    tests = [op for value in values for op in _when(_JUMP_EQUAL, value, _ALLOW)]
    return [*tests, _op(_RETURN, action)]


def _only_for(number: int, body: list[bytes]) -> list[bytes]:
    """Runs `body`, which must end the filter, for that system call only."""
    return [_op(_JUMP_EQUAL, number, 0, len(body)), *body]


def _namespaces() -> list[bytes]:
    flags = sum(NAMESPACE_FLAGS)
    return [
        _op(_LOAD, _ARG0),
        *_when(_JUMP_ANY_BIT, flags, _errno(EPERM)),
        _op(_RETURN, _ALLOW),
    ]


def _terminals() -> list[bytes]:
    refused = [op for v in TERMINAL_INJECTION for op in _when(_JUMP_EQUAL, v, _errno(EPERM))]
    return [_op(_LOAD, _ARG1), *refused, _op(_RETURN, _ALLOW)]


def _families() -> list[bytes]:
    refuse = _errno(EPROTONOSUPPORT)
    return [
        _op(_LOAD, _ARG2),
        *(op for protocol in DENIED_PROTOCOLS for op in _when(_JUMP_EQUAL, protocol, refuse)),
        _op(_LOAD, _ARG0),
        *_unless_any(ALLOWED_FAMILIES, _errno(EAFNOSUPPORT)),
    ]


def _buffers() -> list[bytes]:
    unheard = [op for option in BUFFER_SIZES for op in _when(_JUMP_EQUAL, option, _errno(0))]
    return [
        _op(_LOAD, _ARG1),
        _op(_JUMP_EQUAL, SOL_SOCKET, 1, 0),
        _op(_RETURN, _ALLOW),
        _op(_LOAD, _ARG2),
        *unheard,
        _op(_RETURN, _ALLOW),
    ]


def _of_the_first_process() -> list[bytes]:
    return [_op(_LOAD, _ARG0), *_when(_JUMP_EQUAL, 1, _errno(EPERM)), _op(_RETURN, _ALLOW)]


def _huge_pages(argument: int, flag: int) -> list[bytes]:
    """As on a machine that has none."""
    load = _op(_LOAD, _ARG0 + 8 * argument)
    return [load, *_when(_JUMP_ANY_BIT, flag, _errno(ENOMEM)), _op(_RETURN, _ALLOW)]


def _priorities() -> list[bytes]:
    return [
        _op(_LOAD, _ARG0),
        *_when(_JUMP_EQUAL, OF_A_USER, _errno(EPERM)),
        _op(_LOAD, _ARG1),
        *_when(_JUMP_EQUAL, 1, _errno(EPERM)),
        _op(_RETURN, _ALLOW),
    ]


def denied_numbers(machine: Machine) -> dict[str, int]:
    """The denied system calls that this kind of processor has."""
    found = {n: nums[machine.column] for group in DENIED.values() for n, nums in group.items()}
    return {name: number for name, number in found.items() if number is not None}


def bpf(machine_name: str | None = None) -> bytes:
    """The filter as `struct sock_filter[]`; raises KeyError for a processor that we don't know."""
    machine = MACHINES[machine_name or platform.machine()]

    def number(numbers: Numbers) -> int:
        value = numbers[machine.column]
        assert value is not None, "these exist everywhere"  # noqa: S101 - narrows the type
        return value

    program = [
        _op(_LOAD, _ARCH),
        # Another architecture's numbers mean other calls (int 0x80 on x86_64): no way to judge.
        _op(_JUMP_EQUAL, machine.audit_arch, 1, 0),
        _op(_RETURN, _KILL),
        _op(_LOAD, _NUMBER),
        # x32 calls carry the same architecture with a bit in the number; 64-bit programs have none.
        *_when(_JUMP_ANY_BIT, X32_BIT, _KILL),
        *_when(_JUMP_GREATER, NEWEST_KNOWN, _errno(ENOSYS)),
        # clone3's flags lie in memory that a filter can't read; ENOSYS makes libc use clone.
        *_when(_JUMP_EQUAL, number(CLONE3), _errno(ENOSYS)),
    ]
    for denied in denied_numbers(machine).values():
        program += _when(_JUMP_EQUAL, denied, _errno(EPERM))
    program += _only_for(number(CLONE), _namespaces())
    for makes_sockets in (SOCKET, SOCKETPAIR):
        program += _only_for(number(makes_sockets), _families())
    program += _only_for(number(SETSOCKOPT), _buffers())
    for of_a_process in OF_PROCESSES.values():
        program += _only_for(number(of_a_process), _of_the_first_process())
    program += _only_for(number(SETPRIORITY), _priorities())
    for numbers, argument, flag in HUGE_PAGES.values():
        program += _only_for(number(numbers), _huge_pages(argument, flag))
    program += _only_for(number(IOCTL), _terminals())
    program.append(_op(_RETURN, _ALLOW))
    return b"".join(program)


def _rule(names: list[str], errno: int, args: list[dict[str, object]] | None = None) -> object:
    rule = {"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno}
    return {**rule, "args": args} if args else rule


def _low(index: int, value: int) -> list[dict[str, object]]:
    """The argument's low word: where the kernel takes an int, it reads no more."""
    return _masked(index, 0xFFFFFFFF, value)


def _masked(index: int, mask: int, value: int) -> list[dict[str, object]]:
    return [{"index": index, "op": "SCMP_CMP_MASKED_EQ", "value": mask, "valueTwo": value}]


MAKES_SANDBOXES = frozenset({"unshare", "mount"})
"""What makes namespaces within a container, and what mounts there; the code gets neither."""


def docker_profile(*, without: frozenset[str] = frozenset()) -> str:
    """The same rules as JSON for Docker's `seccomp=`; libseccomp checks the architecture.

    `without`: system calls that are left to a filter inside."""
    names = sorted(name for group in DENIED.values() for name in group if name not in without)
    sockets = ["socket", "socketpair"]
    highest = 45  # AF_MCTP; a comparison can't say "none of these", so each family has its rule
    families = [f for f in range(highest + 1) if f not in ALLOWED_FAMILIES]
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [
            _rule(names, EPERM),
            _rule(["clone3", *NEWER_CALLS], ENOSYS),
            *(_rule(["clone"], EPERM, _masked(0, f, f)) for f in NAMESPACE_FLAGS),
            *(_rule(["ioctl"], EPERM, _low(1, v)) for v in TERMINAL_INJECTION),
            *(_rule([n], ENOMEM, _masked(a, f, f)) for n, (_, a, f) in HUGE_PAGES.items()),
            _rule([*OF_PROCESSES], EPERM, _low(0, 1)),
            _rule(["setpriority"], EPERM, _low(0, OF_A_USER)),
            _rule(["setpriority"], EPERM, _low(1, 1)),
            *(_rule(["setsockopt"], 0, _low(1, SOL_SOCKET) + _low(2, v)) for v in BUFFER_SIZES),
            *(_rule(sockets, EPROTONOSUPPORT, _low(2, p)) for p in DENIED_PROTOCOLS),
            *(
                _rule(sockets, EAFNOSUPPORT, [{"index": 0, "op": "SCMP_CMP_EQ", "value": f}])
                for f in families
            ),
            _rule(sockets, EAFNOSUPPORT, [{"index": 0, "op": "SCMP_CMP_GT", "value": highest}]),
        ],
    }
    return json.dumps(profile)
