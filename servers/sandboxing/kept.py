"""Sandboxes by a Docker engine: containers that are kept, in which one sandbox follows the other.

Above: `engines` offers it, `selftest` tries it. Below: `hosted` for containers, `plan` for what the
maker in them is told, `conversation` for the words.

The container is the outer wall, hardened as any other: no network, no capabilities, read-only, and
its limits are those of the sandbox. In it `inside.porter` has `inside.maker` fork sandboxes into
namespaces of their own, as under bubblewrap; there is never more than one.
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from docker.errors import APIError

from servers.docker_policy import hardening
from servers.sandboxing import seccomp
from servers.sandboxing.conversation import SHOWN, Course, Job, converse, greeting
from servers.sandboxing.hosted import TROUBLE, Hosted, Hosting
from servers.sandboxing.inside import frames
from servers.sandboxing.outcome import MIB, Limits, Outcome, SandboxBroken
from servers.sandboxing.plan import ALL_PACKAGES, mounts, plan
from servers.sandboxing.program import program
from servers.sandboxing.transcript import Ending

logger = logging.getLogger(__name__)

_READY_SECONDS = 120.0
_CLEAR_SECONDS = 60.0
"""What is not clear by then hangs, and is removed."""
_HANDOVER_SECONDS = 1.0
"""How long a container that is being cleared is waited for: another one takes about as long."""
_IDLE_SECONDS = 20.0
_PIECE = 1 << 18

_MAKERS_MEMORY = 48 * MIB
"""What porter and maker may have beside the sandbox: with numpy imported they take 28 MB, and 37 in
an image without byte code."""
_MAKERS_PROCESSES = 4
"""Porter, maker, the sandbox's first process, and the one that leaves for it in the making."""
_FILES = 4096
"""Of each process but the code's, which has a limit of its own. The porter hands descriptors over,
which the kernel lets nobody do who may open fewer than all of its user have under way: also those
that code in other containers has."""

_HIDDEN = ("/sys/firmware", "/sys/devices/virtual/powercap")
"""What the engine hides in /sys. Where it hides or fixes anything in /proc, the kernel lets nobody
mount another /proc; so each sandbox hides the same in its own."""
_UNSEEN = ("bind source path", "mounts denied", "invalid mount config")
"""How engines say that they don't see a folder of ours."""


Shape = tuple[hardening.Envelope, Mapping[str, str]]
"""What a container and its sandboxes may use: it serves calls under those limits only."""


class Tenancy:
    """A container with a maker in it, and the way to the sandbox that is there now."""

    def __init__(self, hosted: Hosted, shape: Shape) -> None:
        self.shape = shape
        self.since = time.monotonic()
        """When it became idle."""
        self._hosted = hosted
        self._decoder = frames.Decoder(frames.FROM_PORTER)
        self._words: deque[bytes] = deque()
        self._made = 0
        self._clearing = False
        self._gone = False
        self._ended: bool | None = None
        self._was_out_of_memory = False

    async def begin(self, told: Mapping[str, Any]) -> None:
        """Tell the porter its plan and wait for the first sandbox; raises SandboxBroken."""
        await self._hosted.link.send(frames.encode(frames.PLAN, json.dumps(told).encode()))
        await self._await_sandbox(1, _READY_SECONDS)

    async def renew(self) -> None:
        """End the sandbox that is there, see that nothing is left of it, and have another one.

        Raises SandboxBroken where that can't be seen.
        """
        self._clearing = True
        self._words.clear()
        await self._hosted.link.send(frames.encode(frames.NEXT))
        await self._await_sandbox(self._made + 1, _CLEAR_SECONDS)
        self.since = time.monotonic()

    async def prepare(self) -> None:
        """Make the sandbox that is there ready for a job; raises SandboxBroken."""
        wrong = await greeting(self, _READY_SECONDS)
        if wrong is not None:
            raise SandboxBroken(wrong)
        await self.send(frames.encode(frames.PREPARE))

    async def _await_sandbox(self, number: int, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            while self._made < number:
                if self._gone:
                    raise SandboxBroken(self._hosted.complaint or "the container ended")
                self.hear(await self._hosted.link.receive())
            return
        raise SandboxBroken("the container's maker does not answer")

    @property
    def said(self) -> Sequence[bytes]:
        """What the sandbox that is there has said, and nobody has received."""
        return tuple(self._words)

    @property
    def has_ended(self) -> bool:
        """Whether the sandbox that is there is known to have ended, alone or with its container."""
        return self._gone or self._ended is not None

    async def send(self, data: bytes) -> None:
        """To the sandbox that is there."""
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            await self._hosted.link.send(frames.encode(frames.THROUGH, piece))

    async def receive(self) -> bytes:
        """What it says, at least one byte; nothing when it has ended."""
        while not self._words:
            if self.has_ended:
                return b""
            self.hear(await self._hosted.link.receive())
        return self._words.popleft()

    @property
    def waits(self) -> bool:
        """Whether the sandbox that is there has not ended."""
        while not self._gone and (data := self._hosted.link.received()) is not None:
            self.hear(data)
        return not self.has_ended

    def hear(self, data: bytes) -> None:
        """What came from the container; nothing when it has ended."""
        if not data:
            self._gone = True
            return
        try:
            for kind, payload in self._decoder.feed(data):
                self._take(kind, payload)
        except (frames.BadFrame, ValueError, KeyError, TypeError) as e:
            logger.warning("a container breaks the protocol", extra={"error": str(e)})
            self._gone = True

    def _take(self, kind: bytes, payload: bytes) -> None:
        if kind == frames.THROUGH:
            if not self._clearing:
                self._words.append(payload)
        elif kind == frames.ENDED:
            self._ended = json.loads(payload)["out_of_memory"] is True
        else:
            self._words.clear()
            self._clearing = False
            self._ended = None
            self._made += 1

    async def ran_out_of_memory(self, course: Course) -> bool:
        """What the porter saw, or the engine where the container has ended.

        The engine's word is of the container's whole life, so it means this call only where memory
        had lasted until now.
        """
        if course.transcript.report is not None:
            self._was_out_of_memory |= course.transcript.report.out_of_memory
            return False
        if self._gone:
            return not self._was_out_of_memory and await self._hosted.ran_out_of_memory()
        self._was_out_of_memory |= self._ended is True
        return self._ended is True

    async def discard(self) -> None:
        """Let go of the container and have it removed."""
        await self._hosted.discard()


@dataclass(slots=True)
class KeptCell:
    """The sandbox that is in a container now."""

    tenancy: Tenancy
    backend: KeptContainers
    _over: bool = False

    @property
    def alive(self) -> bool:
        """Whether it still waits for its job."""
        return self.tenancy.waits

    async def run(self, job: Job) -> Outcome:
        """Run the job; cancelling ends the sandbox with its `discard`."""
        try:
            course = await converse(self.tenancy, job)
            out_of_memory = await self.tenancy.ran_out_of_memory(course)
        finally:
            self._over = True
            self.backend.expect()
        if course.vanished and not out_of_memory:
            raise SandboxBroken(course.transcript.complaint or "it was killed before it ran")
        ending = Ending(course.duration, course.timed_out, out_of_memory)
        return course.transcript.outcome(ending).by("docker", self.backend.isolation)

    async def discard(self) -> None:
        """Kill what is in it; the container is used on."""
        with anyio.CancelScope(shield=True):
            await self.backend.take_back(self.tenancy, expected=self._over)


class KeptContainers:
    """A backend: as many containers as sandboxes are in use, and for a while longer."""

    name = "docker"
    most_warm = 1  # it costs about 50 MB while it waits, its shim included

    def __init__(
        self,
        hosting: Hosting,
        machine: str,
        imports: Sequence[str] = (),
        packages: Path | None = None,
        at_once: int = 4,
    ) -> None:
        """`machine`: the engine's processor; `packages`: the folder of package folders.

        There are no more containers than `at_once` calls need, and one to wait.
        """
        self._hosting = hosting
        self._machine = machine
        self._imports = tuple(imports)
        self._shelf = packages
        self._most = at_once + self.most_warm
        self._there = 0
        self._idle: deque[Tenancy] = deque()
        self._returning = 0
        self._waiting = 0
        self._change = anyio.Event()

    @property
    def isolation(self) -> Mapping[str, str]:
        """What holds the code in, for the caller to see."""
        return {
            "container": "kept, for one call at a time",
            "namespaces": "user, mount, pid, net, ipc, uts, cgroup",
            "kernel": self._hosting.kernel,
            "system_calls": "filtered",
            "network": "none",
            "memory": "container",
            "processors": "quota",
        }

    @property
    def image(self) -> str:
        """The image, as an engine names it."""
        return self._hosting.image

    @property
    def late_packages(self) -> bool:
        """Whether the engine sees the folder of packages, as far as is known."""
        return self._shelf is not None

    async def make(self, limits: Limits, packages: Sequence[Path] = ()) -> KeptCell:
        """A fresh sandbox, in a container that is there or a new one; raises SandboxBroken."""
        if packages and self._shelf is None:
            raise SandboxBroken(
                "the Docker engine does not see the folder of packages on this machine: share it"
                " with the engine (Docker Desktop: Settings, Resources, File sharing) and start"
                " again, or use an image that has the packages"
            )
        try:
            return await self._make(limits)
        except TROUBLE as e:
            raise self._hosting.broken(e) from e

    async def _make(self, limits: Limits) -> KeptCell:
        shape = _shape(limits)
        while (tenancy := await self._one_that_is_there()) is not None:
            if tenancy.shape == shape and tenancy.waits:
                with suppress(SandboxBroken):  # it ended just now
                    return await self._cell(tenancy)
            else:
                await self._drop(tenancy)
        return await self._cell(await self._start(limits))

    async def _one_that_is_there(self) -> Tenancy | None:
        """An idle container; None where it is time for another one, whose place is taken then.

        One that will be idle in a moment is waited for: to start another takes much longer.
        """
        patience = time.monotonic() + _HANDOVER_SECONDS
        while not self._idle:
            left = patience - time.monotonic()
            if self._there < self._most and (self._returning <= self._waiting or left <= 0):
                self._there += 1
                return None
            self._waiting += 1
            try:
                with anyio.move_on_after(left if self._there < self._most else None):
                    await self._change.wait()
            finally:
                self._waiting -= 1
        return self._idle.pop()

    async def _cell(self, tenancy: Tenancy) -> KeptCell:
        try:
            await tenancy.prepare()
        except BaseException:
            await self._drop(tenancy)
            raise
        return KeptCell(tenancy, self)

    async def _drop(self, tenancy: Tenancy) -> None:
        """Have the container removed; what comes up in its place need not wait for that."""
        self._there -= 1
        self._changed()
        await tenancy.discard()

    def _changed(self) -> None:
        self._change.set()
        self._change = anyio.Event()

    async def _start(self, limits: Limits) -> Tenancy:
        """A new container, in the place that was taken for it."""
        try:
            return await self._start_with_packages(limits)
        except BaseException:
            self._there -= 1
            self._changed()
            raise

    async def _start_with_packages(self, limits: Limits) -> Tenancy:
        try:
            return await self._started(limits)
        except APIError as e:
            if self._shelf is None or not any(words in str(e).lower() for words in _UNSEEN):
                raise
            logger.warning("the engine does not see the packages", extra={"error": str(e)})
            self._shelf = None
        return await self._started(limits)

    async def _started(self, limits: Limits) -> Tenancy:
        hosted = await self._hosting.start(self._config(limits))
        tenancy = Tenancy(hosted, _shape(limits))
        told = plan(self._imports, shelf=self._shelf is not None, machine=self._machine)
        try:
            await tenancy.begin({**told, "mounts": mounts(limits)})
        except BaseException:
            await tenancy.discard()
            raise
        return tenancy

    def _config(self, limits: Limits) -> dict[str, Any]:
        shelf = {
            "Type": "bind",
            "Source": str(self._shelf),
            "Target": ALL_PACKAGES,
            "ReadOnly": True,
        }
        profile = seccomp.docker_profile(without=seccomp.MAKES_SANDBOXES)
        host = {
            **hardening.host_config(_envelope(limits), dict.fromkeys(mount_points(), _EMPTY)),
            "SecurityOpt": hardening.security(profile),
            "MaskedPaths": list(_HIDDEN),
            "ReadonlyPaths": [],
            # else all that the code says would lie with the engine for as long as the container
            "LogConfig": {"Type": "none", "Config": {}},
            **({"Mounts": [shelf]} if self._shelf else {}),
        }
        return self._hosting.config(program("porter"), [], host)

    def expect(self) -> None:
        """A call is over: its container will be taken back."""
        self._returning += 1

    async def take_back(self, tenancy: Tenancy, *, expected: bool) -> None:
        """A container whose sandbox is of no more use: it is cleared, or else removed."""
        if not expected:
            self.expect()
        try:
            await tenancy.renew()
        except BaseException as e:
            self._returning -= 1
            await self._drop(tenancy)
            if not isinstance(e, (SandboxBroken, *TROUBLE)):
                raise
        else:
            self._returning -= 1
            self._idle.append(tenancy)
            self._changed()

    async def trim(self) -> None:
        """Let go of containers that nobody has needed for a while."""
        while self._idle and time.monotonic() - self._idle[0].since > _IDLE_SECONDS:
            await self._drop(self._idle.popleft())

    async def absence(self) -> str | None:
        """Whether the engine answers."""
        return await self._hosting.absence()

    async def close(self) -> None:
        """Remove the containers that are idle, and let go of the engine."""
        with anyio.CancelScope(shield=True):
            while self._idle:
                await self._drop(self._idle.pop())
            await self._hosting.close()


_EMPTY = "ro,nosuid,nodev,noexec,size=4k,nr_inodes=2,mode=0555"


def mount_points() -> tuple[str, ...]:
    """Where a sandbox mounts what is its own: there in any image, and nobody's to write to."""
    return ("/work", "/tmp", SHOWN)  # noqa: S108 - the container's own


def _shape(limits: Limits) -> Shape:
    return _envelope(limits), mounts(limits)


def _envelope(limits: Limits) -> hardening.Envelope:
    return hardening.Envelope(
        memory=limits.memory + _MAKERS_MEMORY,
        cpus=limits.cpus,
        processes=limits.processes + _MAKERS_PROCESSES,
        files=_FILES,
    )
