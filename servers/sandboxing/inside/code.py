"""The code's own process: limited, then the code as a notebook would run it.

It knows nothing of the link to the host, which its parent holds and which is closed here; its
parent's memory is closed to it. So the code can shape its output and its result, which are its own,
but not how it is said to have ended.
"""

from __future__ import annotations

import ast
import atexit
import builtins
import gc
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
from typing import Any, NoReturn

from servers.sandboxing.inside import figures

assert sys.platform == "linux"  # noqa: S101 - tells mypy; in a sandbox it is always so

FINISHED, OUT_OF_MEMORY = b"F", b"M"

_NAME = "<code>"
_FIRST_TO_DIE = b"1000"


class Notes:
    """A page shared with the parent: how far the code came, and its result."""

    def __init__(self, size: int) -> None:
        """`size`: how many bytes of the result are kept."""
        self._page = mmap.mmap(-1, size + 16)
        self._size = size

    def write(self, mark: bytes, text: str | None = None) -> None:
        """Note how far it came, and the result where there is one."""
        data = b"" if text is None else text.encode("utf-8", "replace")[: self._size]
        head = mark + (b"-" if text is None else b"+") + len(data).to_bytes(8, "big")
        self._page[: len(head) + len(data)] = head + data

    def read(self) -> tuple[bytes, str | None]:
        """The mark, zero where nothing was noted, and the result: the code may have forged both."""
        length = min(int.from_bytes(self._page[2:10], "big"), self._size)
        text = self._page[10 : 10 + length].decode("utf-8", "replace")
        return self._page[:1], text if self._page[1:2] == b"+" else None


def become(notes: Notes) -> NoReturn:
    """Turn this freshly forked process into the code's; run what standard input says, and leave."""
    _volunteer_to_die()
    for number in (signal.SIGPIPE, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _open_streams()
    _reseed()
    sys.argv = [_NAME]
    figures.register()
    for name in [n for n in sys.modules if n.partition(".")[0] == "servers"]:
        del sys.modules[name]
    sys.meta_path[:] = [f for f in sys.meta_path if type(f).__module__ != "__main__"]
    builtins.input = _nobody_to_ask
    request = _request()
    _limit(request["limits"])
    sys.path[:0] = [os.getcwd(), *request["packages"]]
    _leave(_run(request["code"], notes))


def _request() -> dict[str, Any]:
    """All of standard input, which is empty from then on."""
    with open(0, "rb", closefd=False) as request:
        found: dict[str, Any] = json.loads(request.read() or b"null")
    if found is None:  # the parent is gone
        os._exit(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.closerange(3, 16)
    return found


def _limit(limits: dict[str, int]) -> None:
    for name, value in limits.items():
        kind = getattr(resource, "RLIMIT_" + name)
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def _volunteer_to_die() -> None:
    """When memory runs out the code goes, not the process that can tell of it."""
    try:
        with open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
            file.write(_FIRST_TO_DIE)
    except OSError:
        pass  # then the host tells of it


def _open_streams() -> None:
    """What was printed before a kill is not lost, so lines are not kept back."""
    sys.stdin = open(0)  # noqa: SIM115 - the code's own standard input
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = io.TextIOWrapper(
            open(number, "wb", closefd=False),  # noqa: SIM115 - as long as the process
            encoding="utf-8",
            errors="backslashreplace",
            line_buffering=True,
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _reseed() -> None:
    """Forks of one process would all draw the same numbers; `random` sees to itself."""
    numbers = sys.modules.get("numpy.random")
    if numbers is not None:
        numbers.seed()


def _nobody_to_ask(prompt: object = "") -> str:
    raise EOFError("input() has nobody to ask: standard input is empty in a sandbox")


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


def _run(code: str, notes: Notes) -> int:
    """The exit code that Python would leave with."""
    linecache.cache[_NAME] = (len(code), None, code.splitlines(True), _NAME)
    names = _namespace()
    try:
        body, last = _split(code)
        exec(body, names)  # noqa: S102 - what a sandbox is for
        value = None if last is None else eval(last, names)  # noqa: S307
        notes.write(FINISHED, None if value is None else repr(value))
    except SystemExit as end:
        return _exit_code(end)
    except BaseException as error:
        if isinstance(error, MemoryError):
            notes.write(OUT_OF_MEMORY)
        _show_error(error)
        return 1
    return 0


def _exit_code(end: SystemExit) -> int:
    if end.code is None or isinstance(end.code, int):
        return (end.code or 0) & 0xFF
    print(end.code, file=sys.stderr)  # noqa: T201 - as Python does
    return 1


def _leave(exit_code: int) -> NoReturn:
    """End as Python ends, but without taking apart what was imported in advance: that is slow."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.modules["__main__"].__dict__.clear()  # closes files that were left open
        gc.collect()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    finally:
        os._exit(exit_code)
