"""Makes sandboxes by forking: what it has imported they have, and its memory until they write.

It runs without privileges, in a bubblewrap of its own or in a container below `porter`. A sandbox
is a child that leaves for a user namespace and with it for namespaces of every other kind, mounts
fresh file systems, and becomes `init`. What a sandbox could take over from here, another one could
as well, so there is nothing: no code was run here and no request was read.

The host, or the porter for it, sends a plan first, then one packet a sandbox: its mounts where they
are not in the plan, and the descriptor that is the sandbox's end of its link.
"""

from __future__ import annotations

import base64
import gc
import json
import os
import signal
import socket
import sys
from contextlib import suppress
from typing import Any, NoReturn

from servers.sandboxing.inside import frames, init, kernel
from servers.sandboxing.inside.link import MOST_DESCRIPTORS, Link

assert sys.platform == "linux"  # noqa: S101 - tells mypy; in a sandbox it is always so

_LONGEST_WORD = 1 << 18
_ALL_NAMESPACES = (
    kernel.NEW_USER
    | kernel.NEW_MOUNTS
    | kernel.NEW_PIDS
    | kernel.NEW_NETWORK
    | kernel.NEW_IPC
    | kernel.NEW_HOST_NAME
    | kernel.NEW_CGROUP
)
_SAFE = kernel.NO_SUID | kernel.NO_DEVICES
_NO_ROOM = "size=4k,nr_inodes=1,mode=0555"
_SOCKET_BYTES = "4096 65536 131072"
# what Docker covers in /proc, and what it makes read-only there
_HIDDEN = (
    *("acpi", "asound", "kcore", "keys", "latency_stats", "sched_debug", "scsi"),
    *("timer_list", "timer_stats"),
)
_FIXED = ("bus", "fs", "irq", "sys", "sysrq-trigger")


def main() -> NoReturn:
    """Serve the host until it lets go."""
    host = socket.socket(fileno=os.dup(0))
    plan = json.loads(host.recv(_LONGEST_WORD))
    sys.path += plan["paths"]
    host.send(json.dumps({"imported": init.import_all(plan["imports"])}).encode())
    gc.collect()
    gc.freeze()  # a collection would write to every page that the sandboxes share
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        data, descriptors, _, _ = socket.recv_fds(host, _LONGEST_WORD, 1)
        if not data:
            os._exit(0)
        if _fork(descriptors[0]) == 0:
            _become_sandbox({**plan, **json.loads(data)}, host, descriptors[0])
        os.close(descriptors[0])


def _fork(link: int) -> int:
    """`os.fork`, which tells the host on `link` where there is no process to be had."""
    try:
        return os.fork()
    except OSError as e:
        os.write(link, frames.encode(frames.BROKEN, str(e).encode()))
        return -1


def _become_sandbox(plan: dict[str, Any], host: socket.socket, descriptor: int) -> NoReturn:
    host.close()
    os.dup2(descriptor, 0)
    os.closerange(3, MOST_DESCRIPTORS)
    link = Link(0, 0)
    try:
        _enter_namespaces()
        _mount(plan)
    except OSError as e:
        init.give_up(link, e)
    filter_ = base64.b64decode(plan["filter"])

    def harden() -> None:
        kernel.drop_capabilities()
        kernel.forbid_new_privileges()
        kernel.filter_system_calls(filter_)

    init.serve(link, lambda wanted: _show_packages(plan["packages"], wanted), harden)


def _enter_namespaces() -> None:
    """As the first process of them; the one that left for them ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    user, group = os.getuid(), os.getgid()
    kernel.unshare(_ALL_NAMESPACES)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    if os.fork():
        os._exit(0)
    kernel.bring_up_loopback()


def _mount(plan: dict[str, Any]) -> None:
    kernel.mount("proc", "/proc", "proc", _SAFE | kernel.NO_EXEC)
    _bound_sockets()
    _cover_proc()
    if os.path.isdir("/dev/mqueue"):  # a container's own: what is left in it, the next call finds
        kernel.mount("mqueue", "/dev/mqueue", "mqueue", _SAFE | kernel.NO_EXEC)
    for path, options in plan["mounts"].items():
        kernel.mount("tmpfs", path, "tmpfs", _SAFE, options)
    options = "newinstance,ptmxmode=0666,mode=0620,max=64"  # all other sandboxes share the rest
    kernel.mount("devpts", "/dev/pts", "devpts", kernel.NO_SUID | kernel.NO_EXEC, options)
    os.chdir("/work")


def _bound_sockets() -> None:
    """What may wait in one of TCP's; a datagram's has no more than the system's usual."""
    for name in ("tcp_rmem", "tcp_wmem"):
        with suppress(OSError), open(f"/proc/sys/net/ipv4/{name}", "w") as file:
            file.write(_SOCKET_BYTES)


def _cover_proc() -> None:
    """Behind what keeps the code out of these anyway: it is neither root nor has capabilities."""
    for path in (f"/proc/{name}" for name in _HIDDEN):
        if os.path.isdir(path):
            kernel.mount("tmpfs", path, "tmpfs", kernel.READ_ONLY | _SAFE, _NO_ROOM)
        elif os.path.exists(path):
            kernel.mount("/dev/null", path, "", kernel.BIND)
    for path in (f"/proc/{name}" for name in _FIXED):
        if os.path.exists(path):
            kernel.mount(path, path, "", kernel.BIND)
            flags = kernel.REMOUNT | kernel.BIND | kernel.READ_ONLY | _SAFE | kernel.NO_EXEC
            kernel.mount(path, path, "", flags)


def _show_packages(places: dict[str, str], wanted: list[str]) -> None:
    """The wanted ones, and nothing else of the folder that holds them all."""
    if not places:
        return
    shown, all_ = places["shown"], places["all"]
    kernel.mount("tmpfs", shown, "tmpfs", _SAFE, "size=64k,mode=0755")
    for path in wanted:
        os.mkdir(path)
        kernel.mount(os.path.join(all_, os.path.basename(path)), path, "", kernel.BIND)
    kernel.mount("tmpfs", all_, "tmpfs", _SAFE, "size=4k,mode=0000")
    for path in (shown, all_):
        kernel.mount("tmpfs", path, "tmpfs", kernel.REMOUNT | kernel.READ_ONLY | _SAFE)
