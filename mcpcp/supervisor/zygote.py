"""The zygote: a single-threaded process that has imported the SDK once and forks Python servers.

Run as a program by `forking.Zygote`, whose other end it talks to; it knows nothing of mcpcp. Each
request is a frame (4 bytes of length, JSON) that brings descriptors along; each answer is a frame
too. A server is forked twice, so that the supervisor, a subreaper, becomes its parent: it waits for
it, and the server outlives the zygote.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import struct
import sys
import time
import types
from pathlib import Path
from typing import Any, Final

if sys.platform != "linux":
    raise ImportError("forking servers is only safe on Linux")

MOST_DESCRIPTORS: Final = 16
REPARENT_DEADLINE: Final = 60.0
PR_SET_PDEATHSIG: Final = 1
PR_SET_NAME: Final = 15

Request = dict[str, Any]


def main() -> None:
    """Serve until the supervisor closes the channel; in each child, become the server asked for."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    supervisor, modules = int(sys.argv[2]), sys.argv[3].split(",")
    sys.path.pop(0)  # our own folder: its modules must not hide those that servers import
    failed = _preload(modules)
    threads = sorted(path.name for path in Path("/proc/self/task").iterdir())
    if len(threads) > 1:
        sys.exit("an imported module started a thread: forking is not safe")
    title = _Title()
    title.set("mcpcp zygote: forks Python servers")
    gc.collect()
    gc.freeze()  # keeps the collector from touching, and so copying, pages that children share
    _send(channel, {"ready": True, "failed": failed})
    while (received := _receive(channel)) is not None:
        request, descriptors = received
        server = _fork(channel, request, descriptors)
        if server == 0:
            channel.close()
            _become(request, descriptors, supervisor, title)
            return
        for descriptor in descriptors:
            os.close(descriptor)


def _preload(modules: list[str]) -> list[str]:
    """Import what is there; what fails is named, and left to the servers."""
    failed = []
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:
            failed.append(f"{module}: {error!r}")
    return failed


def _send(channel: socket.socket, answer: dict[str, Any]) -> None:
    body = json.dumps(answer).encode()
    channel.sendall(struct.pack("!I", len(body)) + body)


def _receive(channel: socket.socket) -> tuple[Request, list[int]] | None:
    head, descriptors, _flags, _address = socket.recv_fds(channel, 4, MOST_DESCRIPTORS)
    head += _read_exactly(channel, 4 - len(head)) if head else b""
    if len(head) < 4:
        return None
    body = _read_exactly(channel, struct.unpack("!I", head)[0])
    return json.loads(body), descriptors


def _read_exactly(channel: socket.socket, count: int) -> bytes:
    parts = b""
    while len(parts) < count and (part := channel.recv(count - len(parts))):
        parts += part
    return parts


def _fork(channel: socket.socket, request: Request, descriptors: list[int]) -> int:
    """Fork the server and answer with its pid; returns 0 in the server."""
    read_end, write_end = os.pipe()
    try:
        middle = os.fork()
    except OSError as error:
        os.close(read_end)
        os.close(write_end)
        _send(channel, {"error": f"fork: {error.strerror}"})
        return -1
    if middle == 0:
        os.close(read_end)
        if _fork_again(write_end) == 0:
            os.close(write_end)
            return 0
        os._exit(0)
    os.close(write_end)
    os.waitpid(middle, 0)  # from here on the server is the supervisor's child
    said = os.read(read_end, 32)
    os.close(read_end)
    _send(channel, {"pid": int(said)} if said else {"error": "fork: the second one failed"})
    return middle


def _fork_again(write_end: int) -> int:
    try:
        server = os.fork()
    except OSError:
        return -1
    if server:
        os.write(write_end, str(server).encode())
    return server


def _become(request: Request, descriptors: list[int], supervisor: int, title: _Title) -> None:
    """Turn this fork into the process that a spawn would have made, and run its script."""
    os.setsid()
    _die_with(supervisor)
    _take_streams(descriptors[0])
    env = dict(request["env"])
    env.update(zip(request["inherit"], map(str, descriptors[1:]), strict=True))
    os.environ.clear()
    os.environ.update(env)
    os.chdir(request["cwd"])
    _rename(request["name"])
    title.set(" ".join(request["argv"]))
    gc.enable()
    importlib.invalidate_caches()
    _run(request["argv"][1:])


def _die_with(supervisor: int) -> None:
    """Be killed when the supervisor ends: set after reparenting, which resets it."""
    deadline = time.monotonic() + REPARENT_DEADLINE
    while os.getppid() != supervisor:
        if time.monotonic() > deadline:
            os._exit(1)
        time.sleep(0.0002)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != supervisor:
        os._exit(1)


def _take_streams(output: int) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(nothing)
    os.close(output)


def _rename(name: str) -> None:
    ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)


class _Title:
    """This process's command line, as ps shows it.

    The kernel reads one string, up to its end, where the last byte of the area is not zero: that is
    how programs have always renamed themselves, and it needs no privilege. The supervisor starts us
    with a long last argument to make room.
    """

    def __init__(self) -> None:
        fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
        self._start, end = int(fields[45]), int(fields[46])  # arg_start, arg_end
        self._size = end - self._start

    def set(self, line: str) -> None:
        """Show `line`, cut where the room ends."""
        text = line.encode(errors="replace")[: self._size - 2]
        area = text + b"\0" * (self._size - len(text) - 1) + b"\1"
        ctypes.memmove(self._start, area, self._size)


def _run(argv: list[str]) -> None:
    """Run a script as `python script arguments` does, or a module as `python -m module` does."""
    sys.orig_argv = [sys.executable, *argv]
    if argv[0] == "-m":
        sys.argv = argv[1:]
        sys.path.insert(0, str(Path.cwd()))
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
        return
    script = Path(argv[0])
    sys.argv = argv
    sys.path.insert(0, str(script.resolve().parent))
    module = types.ModuleType("__main__")
    module.__file__ = str(script.absolute())
    module.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = module
    code = compile(script.read_bytes(), str(script), "exec")
    exec(code, module.__dict__)  # noqa: S102  (running the script is what we are for)


if __name__ == "__main__":
    main()
