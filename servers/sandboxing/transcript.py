"""What one run said, put together from what came; everything that comes is somebody else's words.

Above: `conversation`, which carries the bytes. Pure: bytes in, an Outcome out. A sandbox that says
what it may not, or more than it may, is not believed from there on.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from servers.sandboxing import media
from servers.sandboxing.inside import frames
from servers.sandboxing.outcome import File, Limits, Outcome, Status
from servers.sandboxing.paths import BadPath, checked
from servers.sandboxing.text import decode, sanitize

_SIGXCPU = 24
_REASONS = 24
_REASON = 300


@dataclass(frozen=True, slots=True)
class Ending:
    """How the host saw the run end; None where it could not see."""

    duration: float
    timed_out: bool = False
    out_of_memory: bool = False
    cpu_seconds: float | None = None
    peak_memory: int | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What the first process inside says about the code."""

    exit_code: int
    stopped: str | None
    out_of_memory: bool
    result: str | None
    skipped: tuple[str, ...]
    cpu_seconds: float
    peak_memory: int


class Transcript:
    """One run's side of the conversation that comes out of the sandbox."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._decoder = frames.Decoder(frames.FROM_SANDBOX)
        self._outputs = {
            frames.STDOUT: _Output(limits.output),
            frames.STDERR: _Output(limits.output),
        }
        self._files = _Files(limits)
        self.complaint: str | None = None
        self.hello = False
        self.ready = False
        self.report: Report | None = None

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """The next bytes; the pieces of output among them, by STDOUT or STDERR.

        Raises BadFrame where the sandbox does not keep to the words.
        """
        output = []
        for kind, payload in self._decoder.feed(data):
            if self.report is not None:
                raise frames.BadFrame("more after the report")
            if kind in self._outputs:
                self._outputs[kind].add(payload)
                output.append((kind, payload))
            else:
                self._take(kind, payload)
        return output

    def _take(self, kind: bytes, payload: bytes) -> None:
        if kind == frames.HELLO:
            self.hello = True
        elif kind == frames.READY:
            self.ready = True
        elif kind == frames.FILE:
            self._files.begin(payload)
        elif kind == frames.DATA:
            self._files.add(payload)
        elif kind == frames.GONE:
            self._files.gone(payload)
        elif kind == frames.BROKEN:
            self.complaint = decode(payload[:_REASON])
        else:
            self.report = _report(payload, self._limits)

    @property
    def flooded(self) -> bool:
        """Whether the code wrote more than anybody will read."""
        return any(output.total > self._limits.flood for output in self._outputs.values())

    def _judge(self, ending: Ending, report: Report | None) -> tuple[Status, int | None]:
        """What the run came to: our own observations first, the report where we saw nothing."""
        code = report.exit_code if report else None
        if self.flooded:
            return "output_limit", code
        if ending.timed_out or (report is not None and self._ran_out_of_time(ending, report)):
            return "timeout", code
        if _ran_out_of_memory(ending, report):
            return "memory_limit", code
        if report is None:
            return "killed", None
        return _by_exit_code(report.exit_code), report.exit_code

    def _ran_out_of_time(self, ending: Ending, report: Report) -> bool:
        """It was stopped, or one process used up the processor time of all."""
        if report.stopped is not None:
            return True
        used = report.cpu_seconds if ending.cpu_seconds is None else ending.cpu_seconds
        return report.exit_code == -_SIGXCPU and used >= self._limits.cpu_time

    def outcome(self, ending: Ending) -> Outcome:
        """What to tell the caller."""
        report = self.report
        status, exit_code = self._judge(ending, report)
        out, err = self._outputs[frames.STDOUT], self._outputs[frames.STDERR]
        result = report.result if report else None
        shown = None if result is None else sanitize(result[: self._limits.result])
        skipped = (*(report.skipped if report else ()), *self._files.skipped)
        return Outcome(
            status=status,
            exit_code=exit_code,
            stdout=decode(out.shown),
            stderr=decode(err.shown),
            truncated=self.flooded
            or out.cut
            or err.cut
            or len(result or "") > self._limits.result
            or bool(skipped),
            result=shown,
            files=tuple(self._files.made()),
            deleted=tuple(self._files.deleted),
            skipped=skipped,
            duration_ms=round(ending.duration * 1000),
            cpu_ms=_first(
                _milliseconds(ending.cpu_seconds), report.cpu_seconds * 1000 if report else None
            ),
            peak_memory_bytes=_first(ending.peak_memory, report.peak_memory if report else None),
        )


def _first(seen: float | None, said: float | None) -> int | None:
    """What we saw goes before what we were told."""
    value = said if seen is None else seen
    return None if value is None else round(value)


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


class _Output:
    """The beginning of a stream, and its length."""

    def __init__(self, size: int) -> None:
        self._kept = bytearray()
        self._size = size
        self.total = 0

    def add(self, data: bytes) -> None:
        self.total += len(data)
        self._kept += data[: self._size - len(self._kept)]

    @property
    def shown(self) -> bytes:
        return bytes(self._kept)

    @property
    def cut(self) -> bool:
        return self.total > self._size


@dataclass
class _Files:
    """Files as they come, within bounds of our own: the sandbox's count for nothing."""

    limits: Limits
    skipped: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    _contents: dict[str, bytearray] = field(default_factory=dict)
    _now: bytearray | None = None
    _total: int = 0

    def begin(self, head: bytes) -> None:
        self._now = None
        path = self._path(_object(head).get("path"))
        if path is None:
            return
        if len(self._contents) >= self.limits.file_count:
            self._skip(path, f"more than {self.limits.file_count} files")
            return
        self._now = self._contents[path] = bytearray()

    def add(self, data: bytes) -> None:
        if self._now is None:
            return
        self._total += len(data)
        if self._total > self.limits.disk or len(self._now) + len(data) > self.limits.file_size:
            raise frames.BadFrame("more of a file than was agreed")
        self._now += data

    def gone(self, payload: bytes) -> None:
        path = self._path(payload.decode("utf-8", "replace"))
        if path is not None and len(self.deleted) < self.limits.inodes:
            self.deleted.append(path)

    def made(self) -> list[File]:
        return [
            File(path, len(data), media.media_type(path, data), data)
            for path, data in ((p, bytes(d)) for p, d in self._contents.items())
        ]

    def _path(self, path: object) -> str | None:
        if not isinstance(path, str):
            raise frames.BadFrame("a file without a name")
        try:
            return checked(path, self.limits.file_depth)
        except BadPath as e:
            self._skip(path, str(e))
            return None

    def _skip(self, path: str, why: str) -> None:
        if len(self.skipped) < _REASONS:
            self.skipped.append(sanitize(f"{path!a}: {why}"[:_REASON]))


def _object(payload: bytes) -> dict[str, Any]:
    try:
        found = json.loads(payload)
    except (ValueError, RecursionError):
        raise frames.BadFrame("no JSON where there should be some") from None
    if not isinstance(found, dict):
        raise frames.BadFrame("no JSON object where there should be one")
    return found


def _report(payload: bytes, limits: Limits) -> Report:
    said = _object(payload)
    try:
        result, skipped, stopped = said["result"], said["skipped"], said["stopped"]
        return Report(
            exit_code=int(said["exit_code"]),
            stopped=None if stopped is None else str(stopped),
            out_of_memory=said["out_of_memory"] is True,
            result=None if result is None else str(result)[: limits.result + 1],
            skipped=tuple(sanitize(str(reason)[:_REASON]) for reason in skipped[:_REASONS]),
            cpu_seconds=_finite(said["cpu_seconds"]),
            peak_memory=int(_finite(said["peak_memory"])),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as e:
        raise frames.BadFrame(f"a report without sense: {e!r}") from None


def _finite(value: object) -> float:
    number = float(str(value))
    if not math.isfinite(number):
        raise ValueError("no number")
    return number


def _ran_out_of_memory(ending: Ending, report: Report | None) -> bool:
    if report is None:
        return ending.out_of_memory
    return report.exit_code != 0 and (ending.out_of_memory or report.out_of_memory)


def _by_exit_code(code: int) -> Status:
    if code < 0:
        return "killed"
    return "error" if code else "ok"
