"""A tool server that can be told to misbehave, in every way that the supervisor must survive.

By environment, before it serves: CRASH (ends at once with that exit code), SLOW (seconds until it
serves). By tool, while it serves: see below.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time

if "CRASH" in os.environ:
    sys.stderr.write("error: this server was told to crash\n")
    sys.exit(int(os.environ["CRASH"]))
time.sleep(float(os.environ.get("SLOW", "0")))

from mcp.server.mcpserver import MCPServer  # noqa: E402  a crash must be quick

from servers.serving import add_echo, serve  # noqa: E402

server = MCPServer("unruly")
add_echo(server)


@server.tool()
async def pid() -> int:
    """The process that answers."""
    return os.getpid()


@server.tool()
async def nap(seconds: float, note: str = "") -> str:
    """Answer late; the file `note` shows that the call has begun."""
    if note:
        with open(note, "w") as file:  # noqa: PTH123
            file.write(str(os.getpid()))
    await asyncio.sleep(seconds)
    return f"slept {seconds}"


@server.tool()
async def ignore_term() -> str:
    """From now on SIGTERM does nothing."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return "deaf"


@server.tool()
async def breed(count: int) -> list[int]:
    """Start processes that ignore SIGTERM: every second one in a session of its own."""
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    command = [sys.executable, "-c", program]
    return [
        subprocess.Popen(command, start_new_session=bool(number % 2)).pid  # noqa: ASYNC220
        for number in range(count)
    ]


@server.tool()
async def flood(megabytes: int) -> str:
    """Write that much to stderr as fast as it goes, in lines."""
    block = (b"x" * 1023 + b"\n") * 1024
    began = time.monotonic()
    for _ in range(megabytes):
        view = memoryview(block)
        while view:
            view = view[os.write(2, view) :]
    return f"{megabytes} MB in {time.monotonic() - began:.2f} s"


@server.tool()
async def die(code: int = 1) -> None:
    """End without an answer."""
    os._exit(code)


if __name__ == "__main__":
    serve(server)
