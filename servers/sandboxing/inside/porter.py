"""The first process of a container that is kept: passes words between the host and its sandboxes.

The host has one stream into a container, and `maker` forks one sandbox after the other there. The
stream never gets into a sandbox's hands: each gets a socket of its own, whose other end is here,
and the next one is made when this process has seen that nothing of the last one is left. It forks
nothing after it has read the first request, so no request is in what a sandbox inherits.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import NoReturn

from servers.sandboxing.inside import frames, usage
from servers.sandboxing.inside.link import MOST_DESCRIPTORS, Link

assert sys.platform == "linux"  # noqa: S101 - tells mypy; in a sandbox it is always so

_CHUNK = 1 << 16
_LONGEST_PACKET = 1 << 18
_MAKER_GONE = 124
_CRUMBS = 1 << 20
_FREE_SECONDS = 5.0
_LOOK_SECONDS = 0.001


def main() -> NoReturn:
    """Serve the host until it lets go."""
    if os.getpid() != 1:  # all other processes are taken for a sandbox's, and killed
        sys.exit("the porter is the first process of a container and of nothing else")
    for number in (signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # an engine that stops waits for us
    host = Link(0, 1, frames.TO_PORTER)
    _, plan = host.next()
    family = _Family(plan)
    while True:
        link = family.sandbox(host.reader)
        host.write(frames.encode(frames.NEXT))
        with link:
            _carry(host, link, family)
        family.clear()


class _Family:
    """The maker, and what is left of its sandboxes: all other processes of this container."""

    def __init__(self, plan: bytes) -> None:
        """The maker, started; its first answer is waited for."""
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LONGEST_PACKET)
        self._maker = os.fork()
        if self._maker == 0:
            _become_maker(theirs)
        theirs.close()
        self._control.send(plan)
        if not self._control.recv(_LONGEST_PACKET):
            os._exit(_MAKER_GONE)

    def fileno(self) -> int:
        """To wait for: says nothing before the maker has ended."""
        return self._control.fileno()

    def sandbox(self, lifeline: int) -> socket.socket:
        """The way to a new sandbox, which has said something or has ended already."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [b"{}"], [theirs.fileno()])
        poll = select.poll()
        poll.register(ours, select.POLLIN)
        poll.register(self._control, select.POLLIN)
        poll.register(lifeline, 0)  # that is: its end, and no words
        if ours.fileno() not in [descriptor for descriptor, _ in poll.poll()]:
            os._exit(_MAKER_GONE)
        return ours

    def clear(self) -> None:
        """Kill whatever is left of a sandbox, and see it gone."""
        while others := self._others():
            for pid in others:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for pid in others:
                _wait_for(pid)
            self._reap()
        self._wait_for_memory()

    def _wait_for_memory(self) -> None:
        """The kernel frees a dead sandbox's files a moment later: they would be the next one's."""
        patience = time.monotonic() + _FREE_SECONDS
        while usage.files_in_memory() > _CRUMBS and time.monotonic() < patience:
            time.sleep(_LOOK_SECONDS)

    def _others(self) -> list[int]:
        pids = map(int, filter(str.isdigit, os.listdir("/proc")))
        return [pid for pid in pids if pid not in (os.getpid(), self._maker)]

    def _reap(self) -> None:
        """Orphans are ours; without the maker there is nothing more to do here."""
        while True:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == self._maker:
                os._exit(_MAKER_GONE)
            if pid == 0:
                return


def _become_maker(control: socket.socket) -> NoReturn:
    """With no way to the host but its complaints."""
    os.dup2(control.fileno(), 0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.closerange(3, MOST_DESCRIPTORS)
    for number in (signal.SIGPIPE, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    from servers.sandboxing.inside import maker  # only here: a porter that has it all is heavy

    maker.main()


def _wait_for(pid: int) -> None:
    try:
        ended = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.poll()
    os.close(ended)


def _carry(host: Link, link: socket.socket, family: _Family) -> None:
    """Pass words on, both ways, until the host wants the next sandbox."""
    account = usage.Account()
    poll = select.poll()
    for end in (host.reader, link, family):
        poll.register(end, select.POLLIN)
    while True:
        ready = [descriptor for descriptor, _ in poll.poll()]
        if family.fileno() in ready:
            os._exit(_MAKER_GONE)
        if link.fileno() in ready and not _pass_out(host, link, account):
            poll.unregister(link)
        if host.reader in ready and not _pass_in(host, link):
            return


def _pass_out(host: Link, link: socket.socket, account: usage.Account) -> bool:
    """One piece; False when there will be no more."""
    try:
        data = link.recv(_CHUNK)
    except ConnectionResetError:  # it ended with words unread
        data = b""
    if data:
        host.write(frames.encode(frames.THROUGH, data))
        return True
    known = {"out_of_memory": account.out_of_memory()}
    host.write(frames.encode(frames.ENDED, json.dumps(known).encode()))
    return False


def _pass_in(host: Link, link: socket.socket) -> bool:
    """What has come; False when the next sandbox is wanted."""
    while True:
        kind, payload = host.next()
        if kind == frames.NEXT:
            return False
        with suppress(BrokenPipeError, ConnectionResetError):  # then it has ended
            link.sendall(payload)
        if not host.waiting:
            return True
