"""A program that says how it finds itself: started in whatever way, it must find the same."""

import ctypes
import gc
import json
import os
import signal
import sys
import threading
from pathlib import Path

PR_GET_PDEATHSIG = 2


def pdeathsig() -> int:
    number = ctypes.c_int()
    ctypes.CDLL(None).prctl(PR_GET_PDEATHSIG, ctypes.byref(number), 0, 0, 0)
    return number.value


def facts() -> dict[str, object]:
    secret = ""
    if "SECRET_FD" in os.environ:
        with open(int(os.environ["SECRET_FD"])) as pipe:  # noqa: PTH123
            secret = pipe.read()
    number = os.environ.pop("SECRET_FD", None)
    return {
        "name": __name__,
        "file": __file__,
        "main": sys.modules["__main__"].__dict__ is globals(),
        "argv": sys.argv,
        "path": sys.path,
        "cwd": str(Path.cwd()),
        "env": dict(os.environ),
        "secret": secret,
        "has_descriptor": number is not None,
        "stdin": sys.stdin.read(),
        "leads_session": os.getsid(0) == os.getpid() == os.getpgid(0),
        "parent": os.getppid(),
        "pdeathsig": pdeathsig(),
        "handlers": {
            s.name: str(signal.getsignal(s)).split(" at ")[0]
            for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD)
        },
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "threads": threading.active_count(),
        "collects": gc.isenabled(),
        "command_line": Path("/proc/self/cmdline").read_text().rstrip("\0").replace("\0", " "),
        "ours": sorted(name for name in sys.modules if name.split(".")[0] == "mcpcp"),
    }


if __name__ == "__main__":
    print(json.dumps(facts()), flush=True)
    if "exit" in sys.argv:
        sys.exit(7)
    if "raise" in sys.argv:
        raise RuntimeError("as asked")
    if "wait" in sys.argv:
        signal.pause()
