"""What goes into a sandbox and what comes out; everything that comes out is somebody else's words.

Above: the backends, which carry the bytes. Inside a sandbox: `inside`, which answers.

In, on standard input, each piece after its length in 12 digits: the request, then the mark. Out, on
standard error after all that the code wrote there: the mark, a report in JSON, the mark. The code
never sees the mark, so it can't write a report. Standard input stays open: it is a lifeline.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servers.sandboxing.outcome import Limits, Outcome, Status
from servers.sandboxing.text import decode, sanitize

_CPU_GRACE = 2
_ADDRESS_SPACE_FACTOR = 4
_TAIL_GARBAGE = 64 * 1024


def program() -> str:
    """The source of the first program inside."""
    return Path(__file__).with_name("inside.py").read_text("utf-8")


def _piece(data: bytes) -> bytes:
    return b"%12d" % len(data) + data


class Capture:
    """One output stream: its beginning up to `head` bytes, its end up to `tail`, and its length."""

    def __init__(self, head: int, tail: int) -> None:
        self._head, self._tail = bytearray(), bytearray()
        self._head_size, self._tail_size = head, tail
        self.total = 0

    def add(self, data: bytes) -> None:
        """The next bytes of the stream; memory stays bounded however many come."""
        self.total += len(data)
        self._head += data[: self._head_size - len(self._head)]
        self._tail += data
        if len(self._tail) > 2 * self._tail_size:
            del self._tail[: len(self._tail) - self._tail_size]

    def head(self, size: int) -> bytes:
        """The first `size` bytes, as far as they were kept."""
        return bytes(self._head[:size])

    def tail(self) -> bytes:
        """The last bytes of the stream."""
        return bytes(self._tail)


@dataclass(frozen=True, slots=True)
class Ending:
    """How the backend saw the run end."""

    duration: float
    timed_out: bool = False
    out_of_memory: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """What the first program inside says about the code's process."""

    exit_code: int
    finished: bool = False
    out_of_memory: bool = False
    result: str | None = None


class Exchange:
    """One run's conversation with its sandbox."""

    def __init__(self, code: str, limits: Limits, *, per_process_memory: bool) -> None:
        """`per_process_memory`: nothing bounds the sum, so each process gets a strict bound."""
        self._limits = limits
        self._mark = secrets.token_hex(32).encode()
        self._request = json.dumps(
            {
                "code": code,
                "result": limits.result * 4,
                "limits": _resource_limits(limits, per_process_memory),
            }
        ).encode()
        self.stdout = Capture(limits.output, 0)
        self.stderr = Capture(limits.output, limits.result * 16 + _TAIL_GARBAGE)

    def input(self) -> bytes:
        """What to write to the sandbox; its standard input then stays open."""
        return _piece(self._request) + _piece(self._mark)

    @property
    def flooded(self) -> bool:
        """Whether the code wrote more than anybody will read."""
        return max(self.stdout.total, self.stderr.total) > self._limits.flood

    @property
    def reported(self) -> bool:
        """Whether the first program inside came to its end."""
        return self._report()[0] is not None

    def outcome(self, ending: Ending) -> Outcome:
        """What to tell the caller."""
        report, stderr_size = self._report()
        status, exit_code = _judge(ending, report, flooded=self.flooded)
        result, cut = _shorten(report.result if report else None, self._limits.result)
        shown = self._limits.output
        return Outcome(
            status=status,
            exit_code=exit_code,
            stdout=decode(self.stdout.head(shown)),
            stderr=decode(self.stderr.head(min(shown, stderr_size))),
            truncated=cut or self.stdout.total > shown or stderr_size > shown,
            result=result,
            duration_ms=round(ending.duration * 1000),
        )

    def _report(self) -> tuple[Report | None, int]:
        """The report, and how many bytes of standard error were the code's."""
        tail = self.stderr.tail()
        end = tail.rfind(self._mark)
        start = tail.rfind(self._mark, 0, max(end, 0))
        if start < 0:
            return None, self.stderr.total
        report = json.loads(tail[start + len(self._mark) : end])
        return _believe(report), self.stderr.total - len(tail) + start


def _believe(report: dict[str, Any]) -> Report:
    result = report["result"]
    return Report(
        exit_code=int(report["exit_code"]),
        finished=report["finished"] is True,
        out_of_memory=report["out_of_memory"] is True,
        result=None if result is None else str(result),
    )


def _shorten(text: str | None, size: int) -> tuple[str | None, bool]:
    if text is None:
        return None, False
    return sanitize(text[:size]), len(text) > size


def _judge(ending: Ending, report: Report | None, *, flooded: bool) -> tuple[Status, int | None]:
    """What the run came to: our own observations first, the report where we saw nothing."""
    code = report.exit_code if report else None
    if flooded:
        return "output_limit", code
    if ending.timed_out:
        return "timeout", code
    if _ran_out_of_memory(ending, report):
        return "memory_limit", code
    if report is None:
        return "killed", None
    return _by_exit_code(report.exit_code), report.exit_code


def _ran_out_of_memory(ending: Ending, report: Report | None) -> bool:
    if report is None:
        return ending.out_of_memory
    return report.exit_code != 0 and (ending.out_of_memory or report.out_of_memory)


def _by_exit_code(code: int) -> Status:
    if (
        code == -24
    ):  # SIGXCPU: processor time counts threads together, so it can end before the wall's
        return "timeout"
    if code < 0:
        return "killed"
    return "error" if code else "ok"


def _resource_limits(limits: Limits, per_process_memory: bool) -> dict[str, int]:
    factor = 1 if per_process_memory else _ADDRESS_SPACE_FACTOR
    return {
        "AS": limits.memory * factor,
        "CORE": 0,
        "CPU": int(limits.timeout * max(limits.cpus, 1)) + _CPU_GRACE,
        "FSIZE": limits.disk,
        "NOFILE": limits.open_files,
        "NPROC": limits.processes,
    }
