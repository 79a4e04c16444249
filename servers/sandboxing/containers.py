"""Sandboxes by a Docker engine: a hardened container for each call, removed when it ends.

For engines where no sandboxes can be made inside one (`kept`): where AppArmor forbids mounts, say.
Above: `engines` offers it, `selftest` tries it. Below: `hosted`, `conversation` for the words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from servers.docker_policy import hardening
from servers.sandboxing.conversation import SHOWN, Course, Job, converse, greeting
from servers.sandboxing.hosted import TROUBLE, Hosted, Hosting
from servers.sandboxing.inside import frames
from servers.sandboxing.outcome import Limits, Outcome, SandboxBroken
from servers.sandboxing.program import program
from servers.sandboxing.transcript import Ending

_READY_SECONDS = 120.0


class Containers:
    """A backend: makes a container for each sandbox."""

    name = "docker"
    late_packages = False  # a container that runs takes no more mounts
    most_warm = 1  # it costs about 50 MB while it waits, its shim included

    def __init__(self, hosting: Hosting, imports: Sequence[str] = ()) -> None:
        self._hosting = hosting
        self._imports = list(imports)

    @property
    def image(self) -> str:
        """The image, as an engine names it."""
        return self._hosting.image

    @property
    def isolation(self) -> Mapping[str, str]:
        """What holds the code in, for the caller to see."""
        return {
            "container": "one for each call",
            "namespaces": "mount, pid, net, ipc, uts",
            "kernel": self._hosting.kernel,
            "system_calls": "filtered",
            "network": "none",
            "memory": "container",
            "processors": "quota",
        }

    async def make(self, limits: Limits, packages: Sequence[Path] = ()) -> ContainerCell:
        """A container that has started and greeted; raises SandboxBroken when none did."""
        try:
            hosted = await self._hosting.start(self._config(limits, packages))
            cell = ContainerCell(hosted, self.isolation)
            try:
                await cell.prepare()
            except BaseException:
                await cell.discard()
                raise
        except TROUBLE as e:
            raise self._hosting.broken(e) from e
        return cell

    def _config(self, limits: Limits, packages: Sequence[Path]) -> dict[str, Any]:
        mounts = [
            {"Type": "bind", "Source": str(p), "Target": f"{SHOWN}/{p.name}", "ReadOnly": True}
            for p in packages
        ]
        host = {
            **hardening.host_config(_envelope(limits), _tmpfs(limits)),
            **({"Mounts": mounts} if mounts else {}),
        }
        return self._hosting.config(program("init"), self._imports, host)

    async def absence(self) -> str | None:
        """Whether the engine answers."""
        return await self._hosting.absence()

    async def trim(self) -> None:
        """Nothing waits here."""

    async def close(self) -> None:
        """The containers are gone with their cells; let go of the engine."""
        await self._hosting.close()


class ContainerCell:
    """A container that is a sandbox."""

    def __init__(self, hosted: Hosted, isolation: Mapping[str, str]) -> None:
        self._hosted = hosted
        self._isolation = isolation

    async def prepare(self) -> None:
        """Make it ready for a job; raises SandboxBroken."""
        wrong = await greeting(self._hosted.link, _READY_SECONDS)
        if wrong is not None:
            raise SandboxBroken(f"{wrong} {self._hosted.complaint}".strip())
        await self._hosted.link.send(frames.encode(frames.PREPARE))

    @property
    def alive(self) -> bool:
        """Whether it still waits for its job."""
        return self._hosted.link.alive

    async def run(self, job: Job) -> Outcome:
        """Run the job; cancelling ends the container with its `discard`."""
        course = await converse(self._hosted.link, job)
        out_of_memory = await self._ran_out_of_memory(course)
        if course.vanished and not out_of_memory:
            raise SandboxBroken(course.transcript.complaint or "it was killed before it ran")
        ending = Ending(course.duration, course.timed_out, out_of_memory)
        return course.transcript.outcome(ending).by("docker", self._isolation)

    async def _ran_out_of_memory(self, course: Course) -> bool:
        """What the engine says where the sandbox can't any more."""
        return course.transcript.report is None and await self._hosted.ran_out_of_memory()

    async def discard(self) -> None:
        """Let go of it and have it removed."""
        await self._hosted.discard()


def _envelope(limits: Limits) -> hardening.Envelope:
    return hardening.Envelope(
        memory=limits.memory,
        cpus=limits.cpus,
        processes=limits.processes + 2,
        tmpfs=limits.scratch,
        files=limits.open_files,
    )


def _tmpfs(limits: Limits) -> dict[str, str]:
    # the mode is overruled by that of the image's folder, so the folder has to belong to the code
    user, _, group = hardening.USER.partition(":")
    flags = f"rw,nosuid,nodev,exec,uid={user},gid={group},nr_inodes={limits.inodes}"
    return {
        "/work": f"{flags},size={limits.disk}",
        "/tmp": f"{flags},size={limits.scratch}",  # noqa: S108 - the container's own
    }
