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
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import anyio

from servers.sandboxing.call import Listener
from servers.sandboxing.inside import frames
from servers.sandboxing.outcome import Limits
from servers.sandboxing.telling import Teller
from servers.sandboxing.transcript import Transcript

logger = logging.getLogger(__name__)

_STOP_SECONDS = 30.0
"""Of silence: a machine that is slow may take long for the last words, but they are coming."""
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
    """How the conversation went."""

    transcript: Transcript
    duration: float
    timed_out: bool

    @property
    def vanished(self) -> bool:
        """Whether the sandbox was gone before the code began: killed while it waited."""
        return not (self.transcript.begun or self.transcript.report or self.timed_out)


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
    sent = anyio.Event()
    async with anyio.create_task_group() as tasks:
        teller = Teller(job.listener, job.limits.output) if job.listener else None
        if teller is not None:
            tasks.start_soon(teller.run)
        tasks.start_soon(_send, link, job, sent)
        with anyio.move_on_after(job.limits.timeout) as deadline:
            if job.cpu_seconds is not None:
                tasks.start_soon(_watch_processor_time, job, deadline)

            def begin() -> None:
                """What it took until here was not the code's time."""
                deadline.deadline = anyio.current_time() + job.limits.timeout

            await _hear(link, transcript, teller, begin)
        duration = time.monotonic() - began
        if sent.is_set() and (deadline.cancelled_caught or transcript.flooded):
            await _stop(link, transcript)
        tasks.cancel_scope.cancel()
    return Course(transcript, duration, deadline.cancelled_caught)


async def _send(link: Link, job: Job, sent: anyio.Event) -> None:
    for piece in _request(job):
        await link.send(piece)
    sent.set()


async def _watch_processor_time(job: Job, deadline: anyio.CancelScope) -> None:
    """Cancel what waits when all is used up; look no earlier than that can be."""
    processors = os.cpu_count() or 1
    while job.cpu_seconds is not None:
        left = job.limits.cpu_time - (job.cpu_seconds() or 0.0)
        if left <= 0:
            deadline.cancel()
            return
        await anyio.sleep(max(left / processors, _LOOK_SECONDS))


async def _hear(
    link: Link, transcript: Transcript, teller: Teller | None, begin: Callable[[], None]
) -> None:
    """Listen; a sandbox that breaks the protocol is heard no further."""
    try:
        await _listen(link, transcript, teller, begin)
    except frames.BadFrame as e:
        logger.warning("a sandbox breaks the protocol", extra={"error": str(e)})


async def _listen(
    link: Link, transcript: Transcript, teller: Teller | None, begin: Callable[[], None]
) -> None:
    """To the report, the end, or more than anybody will read; calls `begin` when the code does."""
    while transcript.report is None and not transcript.flooded:
        data = await link.receive()
        if not data:
            return
        waited = not transcript.begun
        pieces = transcript.feed(data)
        if waited and transcript.begun:
            begin()
        for kind, output in pieces:
            if teller is not None:
                teller.add("stdout" if kind == frames.STDOUT else "stderr", output)


async def _stop(link: Link, transcript: Transcript) -> None:
    """Have the first process end all others, to hear what became of them and of the files."""
    with anyio.move_on_after(_STOP_SECONDS) as silence, suppress(frames.BadFrame):
        await link.send(frames.encode(frames.STOP))
        while transcript.report is None:
            data = await link.receive()
            if not data:
                return
            transcript.feed(data)
            silence.deadline = anyio.current_time() + _STOP_SECONDS


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
    yield frames.encode(frames.GO)


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
        "CORE": 0,
        "CPU": int(limits.cpu_time) + _CPU_GRACE,
        "FSIZE": limits.disk,
        "NOFILE": limits.open_files,
    }
