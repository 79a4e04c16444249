"""The first process of a sandbox: takes one request, runs it, says how it ended.

It is process 1 of its pid namespace: signals from the code do not reach it, orphans are its own to
reap, and everything dies with it. The host holds the other end of its link; when that is let go,
the sandbox ends.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from servers.sandboxing.inside import code, collect, frames, kernel, usage
from servers.sandboxing.inside.link import MOST_DESCRIPTORS, Link

assert sys.platform == "linux"  # noqa: S101 - tells mypy; in a sandbox it is always so

_CHUNK = 65536
_LOOK_SECONDS = 0.05
_RESULT_BYTES = 128 * 1024


@dataclass
class _Run:
    """A program that runs, and what its parent holds of it."""

    pid: int
    exit: int
    outputs: dict[int, bytes]
    account: usage.Account
    cpu_limit: float
    most_sockets: int
    look_at_cpu: float
    stopped: str | None = None
    out_of_memory: bool = False


def serve(link: Link, show: Callable[[list[str]], None], harden: Callable[[], None]) -> NoReturn:
    """One request from hello to report, then wait for the host to let go.

    `show` makes packages visible; `harden` takes from a process what it may no longer do.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    kernel.set_dumpable(False)
    link.write(frames.encode(frames.HELLO))
    link.next()  # prepare: what is forked from here on is counted
    account = usage.Account()
    notes = code.Notes(_RESULT_BYTES)
    outputs, theirs = _pipes()
    asks, to_ask = os.pipe()
    child = os.fork()
    if child == 0:
        harden()
        _leave_everything_to_the_parent(asks, theirs)
        code.become(notes)
    for descriptor in (asks, *theirs):
        os.close(descriptor)
    request, known = _receive(link)
    try:
        show(request["packages"])
        harden()
    except OSError as e:
        give_up(link, e)
    link.write(frames.encode(frames.READY))
    link.next()  # go
    account.begin(child)
    _ask(to_ask, request)
    run = _Run(
        pid=child,
        exit=os.pidfd_open(child),
        outputs=outputs,
        account=account,
        cpu_limit=request["cpu_time"],
        most_sockets=request["limits"]["NOFILE"],
        look_at_cpu=time.monotonic() + request["cpu_time"],
    )
    _watch(link, run)
    status = _end(run)
    _drain(link, run)
    _report(link, request, known, run, _exit_code(status), notes)
    while True:  # the host lets go, or kills
        link.next()


def give_up(link: Link, why: OSError) -> NoReturn:
    """Leave, and tell the host why there will be no sandbox."""
    link.write(frames.encode(frames.BROKEN, str(why).encode()))
    os._exit(1)


def _ask(descriptor: int, request: dict[str, Any]) -> None:
    """Let the code's process begin."""
    with suppress(BrokenPipeError), os.fdopen(descriptor, "wb") as asking:
        asking.write(json.dumps(request).encode())


def import_all(names: list[str]) -> list[str]:
    """Import in advance what many programs will; those of them that are there."""
    found = []
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
        found.append(name)
    return found


def _receive(link: Link) -> tuple[dict[str, Any], collect.Known]:
    """The request, which is the file without a path; the session's are written where we are."""
    request, known = bytearray(), {}
    path, content = "", request
    while True:
        kind, payload = link.next()
        if kind == frames.DATA:
            content += payload
            continue
        if path:
            known[path] = collect.unpack(".", path, content)
        if kind == frames.COMPLETE:
            return json.loads(request), known
        path = json.loads(payload)["path"]
        content = bytearray() if path else request


def _pipes() -> tuple[dict[int, bytes], tuple[int, int]]:
    """Our ends by the kind of frame that they become, and the code's standard streams.

    We never wait in a read: the code can open its own pipes and take out what we were told of.
    """
    out, their_out = os.pipe()
    err, their_err = os.pipe()
    for ours in (out, err):
        os.set_blocking(ours, False)
    return {out: frames.STDOUT, err: frames.STDERR}, (their_out, their_err)


def _leave_everything_to_the_parent(asks: int, theirs: tuple[int, int]) -> None:
    """The code holds three descriptors: one to read its request from, and two to write."""
    os.setsid()
    kernel.set_dumpable(True)
    os.dup2(asks, 0)
    os.dup2(theirs[0], 1)
    os.dup2(theirs[1], 2)
    os.closerange(3, MOST_DESCRIPTORS)


def _watch(link: Link, run: _Run) -> None:
    """Pass on what the code writes until its first process ends or somebody stops it."""
    poll = select.poll()
    for descriptor in (*run.outputs, run.exit, link.reader):
        poll.register(descriptor, select.POLLIN)
    look = time.monotonic() + _LOOK_SECONDS
    while run.stopped is None and not run.out_of_memory:
        ready = [descriptor for descriptor, _ in poll.poll(0 if link.waiting else _until(look))]
        for descriptor in ready:
            if descriptor in run.outputs and _pass_on(link, run, descriptor) == b"":
                poll.unregister(descriptor)
        if (link.waiting or link.reader in ready) and link.next()[0] == frames.STOP:
            run.stopped = "host"
        if run.exit in ready:
            return
        if time.monotonic() >= look:
            look = time.monotonic() + _LOOK_SECONDS
            _look(run)


def _until(look: float) -> int:
    """Milliseconds until then."""
    return int(max(look - time.monotonic(), 0) * 1000 + 1)


def _look(run: _Run) -> None:
    """At what nothing tells us of."""
    # what waits in them is memory, and not every control group counts it
    run.out_of_memory = usage.ip_sockets() > run.most_sockets
    if time.monotonic() >= run.look_at_cpu:
        run.look_at_cpu = _look_at_processor_time(run)


def _look_at_processor_time(run: _Run) -> float:
    """When to look again: not before it can all be used up."""
    left = run.cpu_limit - run.account.cpu_seconds()
    if left <= 0:
        run.stopped = "cpu_time"
    return time.monotonic() + max(left / (os.cpu_count() or 1), _LOOK_SECONDS)


def _pass_on(link: Link, run: _Run, descriptor: int) -> bytes | None:
    """One piece of output: empty when there will be no more, None when there is none now."""
    try:
        data = os.read(descriptor, _CHUNK)
    except BlockingIOError:
        return None
    if data:
        link.write(frames.encode(run.outputs[descriptor], data))
    else:
        os.close(descriptor)
        del run.outputs[descriptor]
    return data


def _end(run: _Run) -> int:
    """Kill whatever is left and reap it all; the wait status of the code's first process."""
    status = 0
    while True:
        _kill_everything()
        try:
            pid, ended = os.waitpid(-1, 0)
        except ChildProcessError:
            return status
        if pid == run.pid:
            status = ended


def _kill_everything() -> None:
    with suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)


def _drain(link: Link, run: _Run) -> None:
    """What the dead have left in their pipes, which need not end: a socket may hold one open."""
    for descriptor in list(run.outputs):
        while _pass_on(link, run, descriptor):
            pass


def _exit_code(status: int) -> int:
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _report(
    link: Link,
    request: dict[str, Any],
    known: collect.Known,
    run: _Run,
    exit_code: int,
    notes: code.Notes,
) -> None:
    used = run.account.cpu_seconds()
    collection = collect.Collection(".", request["collect"])
    collection.send(known, link.write)
    kind, result = notes.read()
    report = {
        "exit_code": exit_code,
        "stopped": run.stopped,
        "finished": kind == code.FINISHED,
        "out_of_memory": kind == code.OUT_OF_MEMORY
        or run.out_of_memory
        or run.account.out_of_memory(),
        "result": result,
        "skipped": collection.skipped,
        "cpu_seconds": used,
        "peak_memory": run.account.peak_memory(),
    }
    link.write(frames.encode(frames.REPORT, json.dumps(report).encode()))


def main() -> NoReturn:
    """In a container: the engine has made the namespaces, the limits and the filter."""
    import_all(sys.argv[1:])
    serve(Link(0, os.dup(1)), lambda _: None, kernel.forbid_new_privileges)
