"""One run, over whatever carries bytes to a sandbox and back: request, output, report.

Above: the backends. Below: `transcript` for what is believed, `inside.frames` for the words.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import anyio

from servers.sandboxing.call import Listener
from servers.sandboxing.inside import frames
from servers.sandboxing.outcome import Limits
from servers.sandboxing.telling import Teller
from servers.sandboxing.transcript import Transcript

logger = logging.getLogger(__name__)

_STOP_SECONDS = 5.0
_LOOK_SECONDS = 0.05
_CPU_GRACE = 2
_ADDRESS_SPACE_FACTOR = 4

SHOWN = "/opt/packages"
"""Where a sandbox sees the package folders of its call."""


class Link(Protocol):
    """The host's end of the way to a sandbox; cancelling either method loses nothing."""

    async def send(self, data: bytes) -> None:
        """All of it; where nobody takes it, `receive` will say so."""
        ...

    async def receive(self) -> bytes:
        """What is there, at least one byte; nothing at the end."""
        ...


@dataclass(frozen=True, slots=True)
class Job:
    """One program for one sandbox; `packages` are folders of the host's.

    `per_process_memory`: nothing bounds the sum, so each process gets a strict bound.
    `cpu_seconds` is what the host sees that it has used so far, where the host sees it.
    """

    code: str
    limits: Limits
    files: Iterable[tuple[str, bytes]] = ()
    packages: tuple[Path, ...] = ()
    listener: Listener | None = None
    per_process_memory: bool = False
    cpu_seconds: Callable[[], float | None] | None = None


@dataclass(frozen=True, slots=True)
class Course:
    """How the conversation went; `begun`: the sandbox may have begun with the code."""

    transcript: Transcript
    duration: float
    timed_out: bool
    begun: bool

    @property
    def vanished(self) -> bool:
        """Whether the sandbox was gone before it was told to begin: nothing was run."""
        return not self.begun and not self.timed_out


async def greeting(link: Link, seconds: float) -> str | None:
    """Wait until the sandbox is ready for a request; what is wrong with it, None if nothing."""
    transcript = Transcript(Limits())
    with anyio.move_on_after(seconds):
        while not transcript.hello and transcript.complaint is None:
            data = await link.receive()
            if not data:
                return "it ended before it was ready"
            transcript.feed(data)
        return transcript.complaint
    return "it was not ready in time"


async def converse(link: Link, job: Job) -> Course:
    """Run the job to its end, its deadline or its flood; cancelling is for the caller to follow up.

    The sandbox may still run afterwards where it did not report: kill it.
    """
    transcript = Transcript(job.limits)
    began = time.monotonic()
    cue = _Cue()
    async with anyio.create_task_group() as tasks:
        teller = Teller(job.listener, job.limits.output) if job.listener else None
        if teller is not None:
            tasks.start_soon(teller.run)
        with anyio.move_on_after(job.limits.timeout) as deadline:
            tasks.start_soon(_send, link, job, cue, deadline)
            if job.cpu_seconds is not None:
                tasks.start_soon(_watch_processor_time, job, deadline)
            await _hear(link, transcript, teller, cue)
        duration = time.monotonic() - began
        if cue.given and (deadline.cancelled_caught or transcript.flooded):
            await _stop(link, transcript)
        tasks.cancel_scope.cancel()
    return Course(transcript, duration, deadline.cancelled_caught, cue.begun)


@dataclass(slots=True)
class _Cue:
    """The word to begin: `due` when the sandbox is ready, `begun` once it may have heard it.

    `given`: all of it was said, so that other words can follow.
    """

    due: anyio.Event = field(default_factory=anyio.Event)
    begun: bool = False
    given: bool = False


async def _send(link: Link, job: Job, cue: _Cue, deadline: anyio.CancelScope) -> None:
    for piece in _request(job):
        await link.send(piece)
    await cue.due.wait()
    deadline.deadline = anyio.current_time() + job.limits.timeout  # until now was not the code's
    cue.begun = True
    await link.send(frames.encode(frames.GO))
    cue.given = True


async def _watch_processor_time(job: Job, deadline: anyio.CancelScope) -> None:
    """Cancel what waits when all is used up; look no earlier than that can be."""
    processors = os.cpu_count() or 1
    while job.cpu_seconds is not None:
        left = job.limits.cpu_time - (job.cpu_seconds() or 0.0)
        if left <= 0:
            deadline.cancel()
            return
        await anyio.sleep(max(left / processors, _LOOK_SECONDS))


async def _hear(link: Link, transcript: Transcript, teller: Teller | None, cue: _Cue) -> None:
    """Listen; a sandbox that breaks the protocol is heard no further."""
    try:
        await _listen(link, transcript, teller, cue)
    except frames.BadFrame as e:
        logger.warning("a sandbox breaks the protocol", extra={"error": str(e)})


async def _listen(link: Link, transcript: Transcript, teller: Teller | None, cue: _Cue) -> None:
    """To the report, the end, or more than anybody will read."""
    while transcript.report is None and not transcript.flooded:
        data = await link.receive()
        if not data:
            return
        for kind, output in transcript.feed(data):
            if teller is not None:
                teller.add("stdout" if kind == frames.STDOUT else "stderr", output)
        if transcript.ready:
            cue.due.set()


async def _stop(link: Link, transcript: Transcript) -> None:
    """Have the first process end all others, to hear what became of them and of the files."""
    with anyio.move_on_after(_STOP_SECONDS), suppress(frames.BadFrame):
        await link.send(frames.encode(frames.STOP))
        while transcript.report is None:
            data = await link.receive()
            if not data:
                return
            transcript.feed(data)


def _request(job: Job) -> Iterator[bytes]:
    limits = job.limits
    request = {
        "code": job.code,
        "limits": _resource_limits(limits, job.per_process_memory),
        "cpu_time": limits.cpu_time,
        "packages": [f"{SHOWN}/{folder.name}" for folder in job.packages],
        "collect": {
            "count": limits.file_count,
            "size": limits.file_size,
            "depth": limits.file_depth,
            "total": limits.disk,
        },
    }
    # the code may be longer than a frame
    yield from frames.encode_file(b'{"path": ""}', json.dumps(request).encode())
    for path, content in job.files:
        yield from frames.encode_file(json.dumps({"path": path}).encode(), content)
    yield frames.encode(frames.COMPLETE)


def _resource_limits(limits: Limits, per_process_memory: bool) -> dict[str, int]:
    """Bounds for each process, behind those for all of them together."""
    if per_process_memory:
        # counts what belongs to the user, in other containers as well: where there is a control
        # group, that counts right
        return {**_each(limits), "AS": limits.memory, "NPROC": limits.processes}
    return _each(limits)


def _each(limits: Limits) -> dict[str, int]:
    return {
        "AS": limits.memory * _ADDRESS_SPACE_FACTOR,
        "CORE": 1,  # 0 would not keep the machine's own collector of cores from being run
        "CPU": int(limits.cpu_time) + _CPU_GRACE,
        "FSIZE": limits.disk,
        "NOFILE": limits.open_files,
    }
