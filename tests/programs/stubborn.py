"""A stdio child of bad manners, by flags; each stdin line is answered with {"pid", "got"}.

deaf       ignores TERM
eternal    does not end with its input
breed      starts a grandchild that is deaf and eternal; its pid is in the first line
garbage    prints what is no JSON before and after each answer
giant      answers with a line of 70 MB
brief      dies with exit code 3, with last words, after its first line
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

flags = set(sys.argv[1:])


def say(**message: object) -> None:
    print(json.dumps(message), flush=True)


if "deaf" in flags:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "breed" in flags:
    grandchild = subprocess.Popen(
        [sys.executable, __file__, "deaf", "eternal", "quiet"], stdin=subprocess.DEVNULL
    )
    say(grandchild=grandchild.pid)
if "quiet" not in flags:
    say(ready=os.getpid())
for line in sys.stdin:
    if "garbage" in flags:
        print("hello from a stray print \x1b[31m{", flush=True)
        print("", flush=True)
    if "giant" in flags:
        say(giant="x" * (70 * 2**20))
    say(pid=os.getpid(), got=json.loads(line))
    if "brief" in flags:
        sys.stderr.write("I can't go on\n")
        sys.exit(3)
while "eternal" in flags:
    with contextlib.suppress(KeyboardInterrupt):
        time.sleep(600)
