"""The guard: the process that the user sees, and the supervisor's insurance.

It holds the fleet's lock, forwards signals, and waits. Guard and supervisor are both subreapers and
watch each other: whichever survives kills everything below it. The supervisor leads a session of
its own, so that a terminal's Ctrl+C reaches the guard alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any, Final

from mcpcp.config import PROJECT, runtime_dir
from mcpcp.processes import become_subreaper, describe_exit, open_pidfd
from mcpcp.supervisor import lock
from mcpcp.supervisor.options import FleetOptions
from mcpcp.supervisor.remains import kill_rest

FORWARDED: Final = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
POLL: Final = 0.05
KILL_PATIENCE: Final = 3.0
"""Seconds that a supervisor which was told twice may take before it is killed itself."""


def run_guard(options: FleetOptions) -> int:
    """Run the fleet until it has ended; the exit code. Raises FleetError when it runs already."""
    place = runtime_dir(options.config)
    held = lock.acquire(place, options.config)
    guard = _Guard()
    try:
        become_subreaper()
        return guard.run(_command(options, str(place)), held)
    finally:
        guard.restore()
        killed = kill_rest(place)
        if killed:
            _say(f"killed {killed} processes that were left")
        lock.release(place, held)


def _command(options: FleetOptions, place: str) -> list[str]:
    text = json.dumps(options.to_wire())
    return [sys.executable, "-m", "mcpcp.supervisor", text, str(os.getpid()), place]


class _Guard:
    """Forwards signals to the supervisor until it ends."""

    def __init__(self) -> None:
        self._received: list[int] = []
        self._told = 0
        self._kill_at: float | None = None
        self._wakeup, self._notify = os.pipe()
        if sys.platform != "win32":
            os.set_blocking(self._notify, False)
        self._previous = {number: signal.signal(number, self._on_signal) for number in _heard()}

    def run(self, command: list[str], lock_descriptor: int) -> int:
        """Start the supervisor, and return its exit code; 0 where it was told to end and did."""
        more: dict[str, Any] = {"start_new_session": True, "pass_fds": (lock_descriptor,)}
        if sys.platform == "win32":
            more = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd=PROJECT, **more)
        pidfd = open_pidfd(process.pid)
        while (code := process.poll()) is None:
            self._wait(pidfd)
            self._forward(process)
        if pidfd is not None:
            os.close(pidfd)
        return self._judge(code)

    def restore(self) -> None:
        """Handle signals as before."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        os.close(self._wakeup)
        os.close(self._notify)

    def _on_signal(self, number: int, _frame: object) -> None:
        self._received.append(number)
        with contextlib.suppress(OSError):
            os.write(self._notify, b"!")

    def _wait(self, pidfd: int | None) -> None:
        """Return when a signal came, the supervisor ended, or it is time to look."""
        if pidfd is None:
            time.sleep(POLL)  # a signal ends it early where its handler raises, else POLL is short
            return
        timeout = None if self._kill_at is None else max(0.0, self._kill_at - time.monotonic())
        ready, _, _ = select.select([pidfd, self._wakeup], [], [], timeout)
        if self._wakeup in ready:
            os.read(self._wakeup, 4096)

    def _forward(self, process: subprocess.Popen[bytes]) -> None:
        while self._received:
            number = self._received.pop(0)
            if number == getattr(signal, "SIGHUP", None):
                process.send_signal(number)
                continue
            _ask_to_end(process)
            self._told += 1
            if self._told > 1:
                self._kill_at = self._kill_at or time.monotonic() + KILL_PATIENCE
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            process.kill()

    def _judge(self, code: int) -> int:
        if code >= 0:
            return code
        if -code in {signal.SIGTERM, getattr(signal, "SIGHUP", None)}:
            _say("stopped before anything had started")
            return 0
        _say(f"the supervisor {describe_exit(code)}: everything that it ran is stopped")
        return 1


def _ask_to_end(process: subprocess.Popen[bytes]) -> None:
    """As TERM, whatever came: a supervisor that only begins to start dies of it without a word."""
    if sys.platform == "win32":
        process.send_signal(signal.CTRL_BREAK_EVENT)  # there a TERM would be a kill
    else:
        process.terminate()


def _heard() -> list[int]:
    """The signals to forward; see `is_heard`."""
    numbers = (getattr(signal, name, None) for name in FORWARDED)
    return [n for n in numbers if n is not None and is_heard(n)]


def is_heard(number: int) -> bool:
    """Whether a fleet acts on that signal: not on a hangup that nohup had ignored before us.

    SIGINT is heard even so: shells start every background job with it ignored, and who sends it to
    one all the same means it.
    """
    hangup = getattr(signal, "SIGHUP", None)
    return number != hangup or signal.getsignal(number) is not signal.SIG_IGN


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone
        sys.stderr.write(f"mcpcp: {text}\n")
        sys.stderr.flush()
