"""System calls that Python has no name for; each raises OSError where the kernel says no."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys

assert sys.platform == "linux"  # noqa: S101 - tells mypy; in a sandbox it is always so

_libc = ctypes.CDLL(None, use_errno=True)

# sched.h
NEW_MOUNTS, NEW_CGROUP, NEW_HOST_NAME = 0x00020000, 0x02000000, 0x04000000
NEW_IPC, NEW_USER, NEW_PIDS, NEW_NETWORK = 0x08000000, 0x10000000, 0x20000000, 0x40000000

# sys/mount.h
READ_ONLY, NO_SUID, NO_DEVICES, NO_EXEC, REMOUNT, BIND = 1, 2, 4, 8, 32, 4096

# sys/prctl.h
_SET_DUMPABLE, _SET_SECCOMP, _DROP_BOUNDING, _SET_NO_NEW_PRIVILEGES = 4, 22, 24, 38
_SECCOMP_FILTER = 2
_CAPABILITY_VERSION = 0x20080522

# net/if.h, linux/sockios.h
_GET_FLAGS, _SET_FLAGS, _INTERFACE_UP = 0x8913, 0x8914, 1


def _checked(result: int, what: str) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def unshare(flags: int) -> None:
    """Leave the namespaces of these kinds for new ones."""
    _checked(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """mount(2)."""
    words = [w.encode() for w in (source, target, kind)]
    _checked(
        _libc.mount(*words, ctypes.c_ulong(flags), options.encode()), f"mount {kind} at {target}"
    )


def _prctl(option: int, value: int, extra: object = 0) -> None:
    _checked(_libc.prctl(option, ctypes.c_ulong(value), extra, 0, 0), f"prctl {option}")


def set_dumpable(dumpable: bool) -> None:
    """Whether others of the same user may look into this process."""
    _prctl(_SET_DUMPABLE, int(dumpable))


def forbid_new_privileges() -> None:
    """No program that is started from here on gains anything by being setuid."""
    _prctl(_SET_NO_NEW_PRIVILEGES, 1)


def drop_capabilities() -> None:
    """All of them, and for good: the bounding set as well."""
    last = int(_first_line("/proc/sys/kernel/cap_last_cap"))
    for capability in range(last + 1):
        _prctl(_DROP_BOUNDING, capability)
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    _checked(_libc.capset(header, struct.pack("=6I", *[0] * 6)), "capset")


def filter_system_calls(bpf: bytes) -> None:
    """From here on; `bpf` is `struct sock_filter[]`."""

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]

    program = Program(len(bpf) // 8, bpf)
    _prctl(_SET_SECCOMP, _SECCOMP_FILTER, ctypes.byref(program))


def bring_up_loopback() -> None:
    """A new network namespace has the interface, but it is down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(probe, _GET_FLAGS, request))[1]
        fcntl.ioctl(probe, _SET_FLAGS, struct.pack("16sh14x", b"lo", flags | _INTERFACE_UP))


def _first_line(path: str) -> str:
    with open(path) as file:
        return file.readline()
