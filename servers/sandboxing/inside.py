"""The first program in every sandbox: forks the code, limits it, waits for it, says how it ended.

It is handed to the sandbox's own Python (3.8 or newer) as `-c`: no imports beyond the standard
library, none of ours. `exchange` on the other side says what it is asked and what it answers.

The code's own process knows nothing of the report: its mark is read after the fork, and the
parent's memory is closed to it. So the code can shape its result, which is its own, but not how it
is said to have ended.
"""

from __future__ import annotations

import ast
import builtins
import ctypes
import io
import json
import linecache
import mmap
import os
import resource
import signal
import sys
import threading
import traceback
import types
from typing import Any

assert sys.platform == "linux"  # noqa: S101 - tells mypy; in a sandbox it is always so

_SET_DUMPABLE = 4
_SET_NO_NEW_PRIVILEGES = 38
_FINISHED, _OUT_OF_MEMORY = b"F", b"M"
_NAME = "<code>"


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _limit(limits: dict[str, int]) -> None:
    for name, value in limits.items():
        kind = getattr(resource, "RLIMIT_" + name)
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


class _Notes:
    """A page shared with the parent: how far the code came, and its result."""

    def __init__(self, size: int) -> None:
        self.page = mmap.mmap(-1, size + 16)
        self.size = size

    def write(self, mark: bytes, text: str | None = None) -> None:
        data = b"" if text is None else text.encode("utf-8", "replace")[: self.size]
        head = mark + (b"-" if text is None else b"+") + len(data).to_bytes(8, "big")
        self.page[: len(head) + len(data)] = head + data

    def read(self) -> tuple[bytes, str | None]:
        length = min(int.from_bytes(self.page[2:10], "big"), self.size)
        text = self.page[10 : 10 + length].decode("utf-8", "replace")
        return self.page[:1], text if self.page[1:2] == b"+" else None


def _split(code: str) -> tuple[types.CodeType, types.CodeType | None]:
    """The code compiled, and its last expression apart, if it ends in one."""
    tree = ast.parse(code, _NAME)
    last = None
    end = tree.body[-1] if tree.body else None
    if isinstance(end, ast.Expr):
        tree.body.pop()
        last = compile(ast.Expression(end.value), _NAME, "eval")
    return compile(tree, _NAME, "exec"), last


def _show_error(error: BaseException) -> None:
    """The traceback as the code's author expects it: without our frames."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename != _NAME:
        frames = frames.tb_next
    traceback.print_exception(type(error), error, frames)


def _namespace() -> dict[str, Any]:
    module = types.ModuleType("__main__")
    module.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = module
    return module.__dict__


def _run(code: str, notes: _Notes) -> None:
    """Runs the code in this process, which is the code's own; leaves by SystemExit."""
    linecache.cache[_NAME] = (len(code), None, code.splitlines(True), _NAME)
    try:
        body, last = _split(code)
    except BaseException as error:
        _show_error(error)
        sys.exit(1)
    names = _namespace()
    try:
        exec(body, names)  # noqa: S102 - what a sandbox is for
        value = None if last is None else eval(last, names)  # noqa: S307
        text = None if value is None else repr(value)
    except SystemExit:
        raise
    except BaseException as error:
        if isinstance(error, MemoryError):
            notes.write(_OUT_OF_MEMORY)
        _show_error(error)
        sys.exit(1)
    notes.write(_FINISHED, text)


def _become_the_code(request: dict[str, Any], notes: _Notes) -> None:
    nothing = os.open("/dev/null", os.O_RDONLY)
    os.dup2(nothing, 0)
    if nothing:
        os.close(nothing)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _prctl(_SET_DUMPABLE, 1)
    _prctl(_SET_NO_NEW_PRIVILEGES, 1)
    _limit(request["limits"])
    sys.stdin = open(0)  # noqa: SIM115 - the code's own standard input
    for stream in (sys.stdout, sys.stderr):  # what was printed before a kill is not lost
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    sys.argv = [_NAME]
    sys.path.insert(0, os.getcwd())  # noqa: PTH109
    _run(request["code"], notes)


def _leave_with_the_server() -> None:
    """Standard input is the lifeline: whoever made this sandbox holds its other end."""
    while os.read(0, 4096):
        pass
    os._exit(125)


def _wait_for(child: int) -> int:
    while True:  # as pid 1 this also reaps what the code leaves behind
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _read(size: int) -> bytes:
    """So many bytes, and not one more: `sys.stdin` would read ahead."""
    data = b""
    while len(data) < size:
        piece = os.read(0, size - len(data))
        if not piece:
            os._exit(125)
        data += piece
    return data


def _report(mark: bytes, exit_code: int, notes: _Notes) -> None:
    kind, result = notes.read()
    report = {"exit_code": exit_code, "finished": kind == _FINISHED, "result": result}
    report["out_of_memory"] = kind == _OUT_OF_MEMORY
    data = mark + json.dumps(report).encode() + mark
    while data:
        data = data[os.write(2, data) :]


def main() -> None:
    request = json.loads(_read(int(_read(12))))
    notes = _Notes(request["result"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # pid 1 gets only the signals that it handles
    _prctl(_SET_DUMPABLE, 0)
    child = os.fork()
    if child == 0:
        _become_the_code(request, notes)
        return
    mark = _read(int(_read(12)))
    threading.Thread(target=_leave_with_the_server, daemon=True).start()
    _report(mark, _wait_for(child), notes)
    os._exit(0)


main()
