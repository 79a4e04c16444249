"""What pip says: one moving line while it goes well, a paragraph with a way out where not."""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections import deque
from types import TracebackType

_STEPS = (
    (re.compile(r"^(?:Collecting|Requirement already satisfied:) ([A-Za-z0-9._-]+)"), "found"),
    (re.compile(r"^\s+(?:Downloading|Using cached) ([^\s-]+)"), "fetched"),
    (re.compile(r"^(?:Building|\s*Preparing) (.+?)(?:: started.*)?$"), "preparing"),
    (re.compile(r"^Installing collected packages: (.+)$"), "installing"),
)

_CAUSES = (
    (
        r"No space left on device|Errno 28|Disk quota exceeded",
        "the disk is full. Free about 300 MB and start again; what is there is repaired.",
    ),
    (
        r"requires a different Python|Requires-Python",
        "a package does not support this Python. Start with Python 3.11 or newer.",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError|SSLCertVerificationError",
        "the package index's certificate is not trusted here. Behind a company proxy, point "
        "PIP_CERT at its certificate file and start again.",
    ),
    (
        r"Failed to establish a new connection|Name or service not known|name resolution|"
        r"Connection refused|ConnectTimeout|Read timed out|ProxyError|Network is unreachable|"
        r"nodename nor servname|Connection reset",
        "the package index can't be reached. Check the network; behind a proxy set HTTPS_PROXY; "
        "with an index of your own set PIP_INDEX_URL; without a network set PIP_NO_INDEX=1 and "
        "PIP_FIND_LINKS to a folder of wheels. Then start again.",
    ),
    (
        r"error: command '.*(?:cc|clang|cl\.exe)'|Microsoft Visual C\+\+|fatal error: Python\.h",
        "a package has no ready-made wheel for this machine and no compiler is here. Install a C "
        "compiler and Python's headers (Debian: sudo apt install build-essential python3-dev).",
    ),
    (r"Permission denied|Errno 13", "the checkout's folder can't be written by this user."),
    (
        r"No matching distribution found|Could not find a version",
        "the package index lacks a package that is needed. Check PIP_INDEX_URL and pip's own "
        "configuration (python3 -m pip config list), then start again.",
    ),
)


def explain(output: str, doing: str) -> str:
    """Why `doing` failed as far as the tool's `output` tells, the way out, its last lines."""
    lines = [line for line in output.splitlines() if line.strip()]
    known = (text for pattern, text in _CAUSES if re.search(pattern, output))
    cause = next(known, "pip could not finish; its last lines are below.")
    tail = "\n".join(f"    {line}" for line in lines[-8:])
    return f"{doing} failed: {cause}" + (f"\n{tail}" if tail else "")


class Progress:
    """One line that moves on a terminal; elsewhere a line each step, at most one a second."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._recent: deque[str] = deque(maxlen=60)
        self._packages: set[str] = set()
        self._live = sys.stderr.isatty()
        self._started = self._shown = time.monotonic()

    @property
    def tail(self) -> str:
        """The tool's last lines."""
        return "\n".join(self._recent)

    def __enter__(self) -> Progress:
        self._show("asking the package index")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        seconds = time.monotonic() - self._started
        self._show("stopped" if kind else f"finished in {seconds:.0f} s")
        if self._live:
            sys.stderr.write("\n")

    def feed(self, line: str) -> None:
        """One line of the tool's output."""
        self._recent.append(line)
        for pattern, word in _STEPS:
            found = pattern.match(line)
            if found:
                self._step(word, found.group(1))
                return

    def _step(self, word: str, what: str) -> None:
        if word == "installing":
            self._show(f"installing {what.count(',') + 1} packages")
            return
        if word == "found":
            self._packages.add(what.lower())
        now = time.monotonic()
        if self._live or now - self._shown > 1:
            self._shown = now
            self._show(f"{len(self._packages)} packages so far, {word} {what}")

    def _show(self, text: str) -> None:
        line = f"{self._title}: {text}"
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write(f"\r\x1b[K{line[:width]}")
        else:
            sys.stderr.write(line + "\n")
        sys.stderr.flush()
