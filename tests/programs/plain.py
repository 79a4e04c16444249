"""A server of the standard library alone, quick to start: health, and misdeeds by GET.

CRASH (ends at once with that exit code) and AFTER (a file: it serves once that is there) come by
environment.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, urlsplit

HOARD: list[bytes] = []


def health(_: dict[str, list[str]]) -> dict[str, object]:
    return {"status": "ok", "pid": os.getpid()}


def eat(query: dict[str, list[str]]) -> dict[str, object]:
    """Use so many MiB of memory from now on."""
    HOARD.append(os.urandom(1) * (int(query["mib"][0]) << 20))
    return {}


STRAY = """
import subprocess, sys
nothing = subprocess.DEVNULL
env = {} if "clean" in sys.argv else None
print(subprocess.Popen(["sleep", "600"], start_new_session=True, stdout=nothing, env=env).pid)
"""


def stray(query: dict[str, list[str]]) -> dict[str, object]:
    """Start a process without a parent, in a session of its own; if asked, without environment."""
    command = [sys.executable, "-c", STRAY, *query]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return {"pid": int(done.stdout)}


HELD: list[socket.socket] = []


def hold(query: dict[str, list[str]]) -> dict[str, object]:
    """Listen on a port beside our own."""
    HELD.append(socket.create_server(("127.0.0.1", int(query["port"][0]))))
    return {}


def release(_: dict[str, list[str]]) -> dict[str, object]:
    """Give back what `hold` took."""
    HELD.pop().close()
    return {}


ACTIONS = {
    "/health": health,
    "/eat": eat,
    "/stray": stray,
    "/hold": hold,
    "/release": release,
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        url = urlsplit(self.path)
        action = ACTIONS.get(url.path)
        body = b"{}" if action is None else json.dumps(action(parse_qs(url.query))).encode()
        self.send_response(200 if action else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


if __name__ == "__main__":
    if "CRASH" in os.environ:
        sys.stderr.write("error: this server was told to crash\n")
        sys.exit(int(os.environ["CRASH"]))
    while "AFTER" in os.environ and not os.path.exists(os.environ["AFTER"]):  # noqa: PTH110
        time.sleep(0.01)
    port = int(sys.argv[sys.argv.index("--port") + 1])
    HTTPServer(("127.0.0.1", port), Handler).serve_forever()
