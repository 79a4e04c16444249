"""The only place in the supervisor that waits for children.

A second waiter, asyncio's own among them, would steal exit codes: nothing here uses asyncio's
subprocesses.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

from mcpcp.processes import exit_code

EARLY_KEPT: Final = 10.0
"""Seconds for which the exit of a child that nobody expects yet is remembered."""


class Reaper:
    """Hands each child's exit code (negative: the signal) to whoever expects it.

    `on_orphan` hears of the exits of children that we did not start, but adopted.
    """

    def __init__(self, on_orphan: Callable[[int], None]) -> None:
        self._on_orphan = on_orphan
        self._expected: dict[int, asyncio.Future[int]] = {}
        self._early: dict[int, tuple[int, float]] = {}
        self._loop = asyncio.get_running_loop()
        if sys.platform != "win32":
            self._loop.add_signal_handler(signal.SIGCHLD, self.reap)

    @property
    def pids(self) -> frozenset[int]:
        """The children that somebody expects."""
        return frozenset(self._expected)

    def expect(self, pid: int) -> asyncio.Future[int]:
        """A future of the child's exit code: also when it has ended already."""
        ended: asyncio.Future[int] = self._loop.create_future()
        early = self._early.pop(pid, None)
        if early is not None:
            ended.set_result(early[0])
        else:
            self._expected[pid] = ended
        return ended

    def expect_spawned(self, process: subprocess.Popen[bytes]) -> asyncio.Future[int]:
        """Like `expect`, for what `spawn` returned; Windows has a thread wait for each."""
        ended = self.expect(process.pid)
        if sys.platform == "win32":

            def wait() -> None:
                code = process.wait()
                self._loop.call_soon_threadsafe(self._deliver, process.pid, code)

            threading.Thread(target=wait, daemon=True).start()
        return ended

    def reap(self) -> None:
        """Collect every child that has ended."""
        if sys.platform == "win32":
            return
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._deliver(pid, exit_code(status))

    def _deliver(self, pid: int, code: int) -> None:
        ended = self._expected.pop(pid, None)
        if ended is None:
            # Perhaps a server whose pid the zygote is about to tell us.
            now = time.monotonic()
            self._early = {p: e for p, e in self._early.items() if now - e[1] < EARLY_KEPT}
            self._early[pid] = (code, now)
            self._on_orphan(pid)
        elif not ended.done():
            ended.set_result(code)
