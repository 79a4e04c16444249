"""Sandboxes by a Docker engine: a hardened container a call, removed when it ends.

Above: `candidates` finds it, `selftest` tries it. Below: `servers.docker_policy` for the engine and
the hardening, `conversation` for the words.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import requests
from docker import DockerClient
from docker.errors import DockerException, ImageNotFound

from servers.docker_policy import container, hardening, ownership
from servers.docker_policy.engine import Engine, EngineAway
from servers.sandboxing.conversation import SHOWN, Course, Job, converse, greeting
from servers.sandboxing.inside import frames
from servers.sandboxing.outcome import Limits, Outcome, SandboxBroken
from servers.sandboxing.program import program
from servers.sandboxing.text import decode
from servers.sandboxing.transcript import Ending
from servers.sandboxing.wirelink import WireLink

_ENGINE_SECONDS = 120
_READY_SECONDS = 120.0
_LOOK_SECONDS = 10.0
_ENVIRONMENT = {
    "HOME": "/work",
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONDONTWRITEBYTECODE": "1",
    "XDG_CACHE_HOME": "/tmp/cache",  # noqa: S108 - the container's own
    "MPLCONFIGDIR": "/tmp/matplotlib",  # noqa: S108
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
_TROUBLE = (
    EngineAway,
    DockerException,
    requests.RequestException,
    OSError,  # no thread or no descriptor is left; a TimeoutError is one, too
)
_FULL = ("no space left on device", "disk quota exceeded")
_STRONGER = {"runsc": "gVisor", "kata": "Kata", "kata-runtime": "Kata"}
"""Runtimes that put more than the host's kernel between the code and the host, best first."""


class Containers:
    """A backend: makes containers of one image under one runtime."""

    name = "docker"
    late_packages = False  # a container that runs takes no more mounts
    most_warm = 1  # it costs about 50 MB while it waits, its shim included

    def __init__(
        self, engine: Engine, image: str, runtime: str | None = None, imports: Sequence[str] = ()
    ) -> None:
        """`runtime` as the engine calls it, None for its usual one."""
        self._engine = engine
        self.image = image
        self._runtime = runtime
        self._imports = tuple(imports)
        self._remains: set[str] = set()

    @property
    def isolation(self) -> Mapping[str, str]:
        """What holds the code in, for the caller to see."""
        return {
            "namespaces": "mount, pid, net, ipc, uts",
            "kernel": _STRONGER.get(self._runtime or "", "the host's"),
            "system_calls": "filtered",
            "network": "none",
            "memory": "container",
            "processors": "quota",
        }

    @classmethod
    def find(
        cls, images: Sequence[str], runtime: str = "auto", imports: Sequence[str] = ()
    ) -> Iterator[Containers]:
        """Backends of an engine that answers and has one of the images; blocks.

        `runtime` is the one to use, or "auto" for each that the engine has, the strongest first.
        """
        engine = Engine()
        try:
            client = engine.client()
            ownership.sweep(client)
            image = _first(client, images)
            runtimes = client.info().get("Runtimes", {})
        except (EngineAway, DockerException, requests.RequestException):
            return
        finally:
            engine.close()
        if image is None:
            return
        stronger = [name for name in _STRONGER if name in runtimes]
        for name in [*stronger, None] if runtime == "auto" else [runtime]:
            yield cls(Engine(), image, name, imports)

    async def make(self, limits: Limits, packages: Sequence[Path] = ()) -> ContainerCell:
        """A container that has started and greeted; raises SandboxBroken when none did."""
        try:
            return await self._make(limits, packages)
        except _TROUBLE as e:
            self._engine.forget()
            raise SandboxBroken(_in_words(e)) from e

    async def _make(self, limits: Limits, packages: Sequence[Path]) -> ContainerCell:
        config = self._config(limits, packages)
        # named by us: an engine that leaves may have made it without a chance to say so
        name = f"mcpcp-sandbox-{os.getpid()}-{secrets.token_hex(6)}"
        cell = ContainerCell(self._engine, name, self.isolation, self._remains)
        try:
            await self._clear()
            await self._engine.complete(lambda c: _create(c, config, name), _ENGINE_SECONDS)
            await cell.start()
        except BaseException:
            await cell.discard()
            raise
        return cell

    def _config(self, limits: Limits, packages: Sequence[Path]) -> dict[str, Any]:
        mounts = [
            {"Type": "bind", "Source": str(p), "Target": f"{SHOWN}/{p.name}", "ReadOnly": True}
            for p in packages
        ]
        host = {
            **hardening.host_config(_envelope(limits), _tmpfs(limits)),
            # our first program is pid 1: a signal from the code does not reach it, and it reaps
            "Init": False,
            **({"Runtime": self._runtime} if self._runtime else {}),
            **({"Mounts": mounts} if mounts else {}),
        }
        return {
            **container.config(self.image, ["python3", "-I", "-c", program("init")], host),
            "Cmd": list(self._imports),
            "WorkingDir": "/work",
            "Env": [f"{name}={value}" for name, value in _ENVIRONMENT.items()],
            "Labels": ownership.sandbox_labels(),
        }

    async def _clear(self) -> None:
        """Remove what could not be removed while the engine was away: it keeps its containers."""
        for name in list(self._remains):
            remove = partial(ownership.remove, container=name)
            with suppress(*_TROUBLE):
                await self._engine.complete(remove, _ENGINE_SECONDS)
                self._remains.discard(name)

    async def absence(self) -> str | None:
        """Whether the engine answers."""
        try:
            await self._engine.call(DockerClient.ping, _LOOK_SECONDS)
        except EngineAway as e:
            return str(e)
        except _TROUBLE as e:
            return f"the Docker engine does not answer as it should: {e or 'its time was up'}"
        return None

    async def close(self) -> None:
        """The containers are gone with their cells; let go of the engine."""
        await self._clear()
        self._engine.close()


class ContainerCell:
    """A container and the wire to it."""

    def __init__(
        self, engine: Engine, name: str, isolation: Mapping[str, str], remains: set[str]
    ) -> None:
        """`remains`: where `discard` notes a container that the engine did not remove."""
        self._remains = remains
        self._engine = engine
        self._container = name
        self._isolation = isolation
        self._link: WireLink | None = None

    async def start(self) -> None:
        """Start it and wait for its greeting; raises SandboxBroken."""
        start = partial(container.start, container=self._container, output=True)
        wire = await self._engine.complete(start, _ENGINE_SECONDS)
        try:
            self._link = WireLink(wire)
        except OSError:
            wire.close()
            raise
        wrong = await greeting(self._link, _READY_SECONDS)
        if wrong is not None:
            raise SandboxBroken(f"{wrong} {decode(self._link.complaint.encode())}".strip())
        await self._link.send(frames.encode(frames.PREPARE))

    @property
    def alive(self) -> bool:
        """Whether it still waits for its job."""
        return self._link is not None and self._link.alive

    async def run(self, job: Job) -> Outcome:
        """Run the job; cancelling ends the container with its `discard`."""
        if self._link is None:
            raise SandboxBroken("the container has not started")
        course = await converse(self._link, job)
        out_of_memory = await self._ran_out_of_memory(course)
        if course.vanished and not out_of_memory:
            raise SandboxBroken("it was killed before it ran")
        ending = Ending(course.duration, course.timed_out, out_of_memory)
        return course.transcript.outcome(ending).by("docker", self._isolation)

    async def _ran_out_of_memory(self, course: Course) -> bool:
        """What the engine says where the sandbox can't any more."""
        if course.transcript.report is not None:
            return False

        end = partial(container.end, container=self._container)
        try:
            return bool((await self._engine.call(end, _ENGINE_SECONDS)).get("OOMKilled"))
        except _TROUBLE:
            return False

    async def discard(self) -> None:
        """Let go of it and have it removed; an engine that is away is told when it is back."""
        if self._link is not None:
            self._link.close()
        remove = partial(ownership.remove, container=self._container)
        try:
            await self._engine.complete(remove, _ENGINE_SECONDS)
        except _TROUBLE:
            self._remains.add(self._container)


def _in_words(e: Exception) -> str:
    """What a caller can do about it; an engine names its own folders where its disk is full."""
    said = str(e)
    if any(full in said.lower() for full in _FULL):
        return (
            "the Docker engine's disk is full: try again later; the operator has to make room where"
            " the engine keeps its data (`docker system df` shows what takes it)"
        )
    return said or "the Docker engine did not answer in time"


def _first(client: DockerClient, images: Sequence[str]) -> str | None:
    for image in images:
        with suppress(ImageNotFound):
            client.images.get(image)
            return image
    return None


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


def _create(client: DockerClient, config: dict[str, Any], name: str) -> str:
    try:
        return container.create(client, config, name)
    except container.Otherwise as e:
        raise SandboxBroken(str(e)) from e
