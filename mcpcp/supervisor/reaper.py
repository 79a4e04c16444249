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
from collections.abc import Callable
from typing import Final

from mcpcp.processes import exit_code

MOST_EARLY: Final = 1000


class Reaper:
    """Hands each child's exit code (negative: the signal) to whoever expects it.

    `on_orphan` hears of the exits of children that we did not start, but adopted.
    """

    def __init__(self, on_orphan: Callable[[int], None]) -> None:
        self._on_orphan = on_orphan
        self._expected: dict[int, asyncio.Future[int]] = {}
        self._early: dict[int, int] = {}
        self._loop = asyncio.get_running_loop()
        if sys.platform != "win32":
            self._loop.add_signal_handler(signal.SIGCHLD, self.reap)

    @property
    def pids(self) -> frozenset[int]:
        """The children that somebody expects."""
        return frozenset(self._expected)

    def expect_forked(self, pid: int) -> asyncio.Future[int]:
        """A future of the exit code of a child that the zygote made: also when it has ended."""
        early = self._early.pop(pid, None)
        ended = self._expect(pid)
        if early is not None:
            self._deliver(pid, early)
        return ended

    def expect_spawned(self, process: subprocess.Popen[bytes]) -> asyncio.Future[int]:
        """A future of the exit code of what `spawn` returned; on Windows a thread waits for it."""
        ended = self._expect(process.pid)
        if sys.platform == "win32":

            def wait() -> None:
                code = process.wait()
                self._loop.call_soon_threadsafe(self._deliver, process.pid, code)

            threading.Thread(target=wait, daemon=True).start()
        return ended

    def forget_early(self) -> None:
        """Drop what is known of unexpected exits: the zygote is about to make a new child.

        Its pid may be that of an orphan that ended before.
        """
        self._early.clear()

    def _expect(self, pid: int) -> asyncio.Future[int]:
        ended: asyncio.Future[int] = self._loop.create_future()
        self._expected[pid] = ended
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
            if len(self._early) > MOST_EARLY:
                self._early.clear()
            self._early[pid] = code  # perhaps a server whose pid the zygote is about to tell us
            self._on_orphan(pid)
        elif not ended.done():
            ended.set_result(code)
