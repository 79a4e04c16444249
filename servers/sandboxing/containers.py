"""Sandboxes by a Docker engine: a hardened container a call, removed when it ends.

Above: `candidates` finds it, `selftest` tries it. Below: `servers.docker_policy` for the engine and
the hardening, `conversation` for the words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import requests
from docker import DockerClient
from docker.errors import APIError, DockerException, ImageNotFound

from servers.docker_policy import hardening, ownership
from servers.docker_policy.engine import Engine, EngineAway
from servers.docker_policy.wire import Wire
from servers.sandboxing.conversation import SHOWN, Course, Job, converse, greeting
from servers.sandboxing.outcome import Limits, Outcome, SandboxBroken
from servers.sandboxing.program import program
from servers.sandboxing.text import decode
from servers.sandboxing.transcript import Ending
from servers.sandboxing.wirelink import WireLink

_ENGINE_SECONDS = 30
_READY_SECONDS = 20.0
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
_STRONGER = {"runsc": "gVisor", "kata": "Kata", "kata-runtime": "Kata"}
"""Runtimes that put more than the host's kernel between the code and the host, best first."""


class Containers:
    """A backend: makes containers of one image under one runtime."""

    name = "docker"
    late_packages = False  # a container that runs takes no more mounts

    def __init__(
        self, engine: Engine, image: str, runtime: str | None = None, imports: Sequence[str] = ()
    ) -> None:
        """`runtime` as the engine calls it, None for its usual one."""
        self._engine = engine
        self._image = image
        self._runtime = runtime
        self._imports = tuple(imports)

    @property
    def isolation(self) -> Mapping[str, str]:
        """What holds the code in, for the caller to see."""
        return {
            "namespaces": "mount, pid, net, ipc, uts",
            "kernel": _STRONGER.get(self._runtime or "", "the host's"),
            "system_calls": "filtered",
            "network": "none",
            "memory": "container",
        }

    @classmethod
    def find(cls, image: str, runtime: str, imports: Sequence[str] = ()) -> Iterator[Containers]:
        """Backends of an engine that answers and has the image, the strongest first; blocks.

        `runtime` is the one to use, or "auto" for each that the engine has.
        """
        engine = Engine()
        try:
            client = engine.client()
            ownership.sweep(client)
            client.images.get(image)
            runtimes = client.info().get("Runtimes", {})
        except (EngineAway, ImageNotFound):
            return
        except (DockerException, requests.RequestException):
            engine.forget()
            return
        stronger = [name for name in _STRONGER if name in runtimes]
        for name in [*stronger, None] if runtime == "auto" else [runtime]:
            yield cls(engine, image, name, imports)

    async def make(self, limits: Limits, packages: Sequence[Path] = ()) -> ContainerCell:
        """A container that has started and greeted; raises SandboxBroken when none did."""
        try:
            return await self._make(limits, packages)
        except (EngineAway, DockerException, requests.RequestException, TimeoutError) as e:
            self._engine.forget()
            raise SandboxBroken(str(e) or "the Docker engine did not answer in time") from e

    async def _make(self, limits: Limits, packages: Sequence[Path]) -> ContainerCell:
        config = self._config(limits, packages)
        container = await self._engine.complete(
            lambda c: _create(c, config, limits, packages), _ENGINE_SECONDS
        )
        cell = ContainerCell(self._engine, container, self.isolation)
        try:
            await cell.start()
        except BaseException:
            await cell.discard()
            raise
        return cell

    def _config(self, limits: Limits, packages: Sequence[Path]) -> dict[str, Any]:
        host = hardening.host_config(_envelope(limits), _tmpfs(limits))
        mounts = [
            {"Type": "bind", "Source": str(p), "Target": f"{SHOWN}/{p.name}", "ReadOnly": True}
            for p in packages
        ]
        return {
            "Image": self._image,
            "Entrypoint": ["python3", "-I", "-c", program("init")],
            "Cmd": list(self._imports),
            "User": hardening.USER,
            "WorkingDir": "/work",
            "Env": [f"{name}={value}" for name, value in _ENVIRONMENT.items()],
            "Labels": ownership.sandbox_labels(),
            "OpenStdin": True,
            "StdinOnce": True,
            "AttachStdin": True,
            "NetworkDisabled": True,
            "HostConfig": {
                **host,
                # our first program is pid 1: a signal from the code does not reach it, and it reaps
                "Init": False,
                **({"Runtime": self._runtime} if self._runtime else {}),
                **({"Mounts": mounts} if mounts else {}),
            },
        }

    async def close(self) -> None:
        """The containers are gone with their cells; let go of the engine."""
        self._engine.forget()


class ContainerCell:
    """A container and the wire to it."""

    def __init__(self, engine: Engine, container: str, isolation: Mapping[str, str]) -> None:
        self._engine = engine
        self._container = container
        self._isolation = isolation
        self._link: WireLink | None = None

    async def start(self) -> None:
        """Start it and wait for its greeting; raises SandboxBroken."""
        wire = await self._engine.complete(lambda c: _start(c, self._container), _ENGINE_SECONDS)
        self._link = WireLink(wire)
        wrong = await greeting(self._link, _READY_SECONDS)
        if wrong is not None:
            raise SandboxBroken(f"{wrong} {decode(self._link.complaint.encode())}".strip())

    @property
    def alive(self) -> bool:
        """Whether it still waits for its job."""
        return self._link is not None and self._link.alive

    async def run(self, job: Job) -> Outcome:
        """Run the job; cancelling ends the container with its `discard`."""
        if self._link is None:
            raise SandboxBroken("the container has not started")
        course = await converse(self._link, job)
        ending = Ending(
            duration=course.duration,
            timed_out=course.timed_out,
            out_of_memory=await self._ran_out_of_memory(course),
        )
        return course.transcript.outcome(ending).by("docker", self._isolation)

    async def _ran_out_of_memory(self, course: Course) -> bool:
        """What the engine says where the sandbox can't any more."""
        if course.transcript.report is not None:
            return False

        def end(client: DockerClient) -> bool:
            with suppress(APIError):  # it has ended by itself
                client.api.kill(self._container)
            client.api.wait(self._container, timeout=_ENGINE_SECONDS)
            return bool(client.api.inspect_container(self._container)["State"].get("OOMKilled"))

        try:
            return await self._engine.call(end, _ENGINE_SECONDS)
        except (EngineAway, DockerException, requests.RequestException, TimeoutError):
            return False

    async def discard(self) -> None:
        """Let go of it and have it removed; what an engine that is away keeps is swept later."""
        if self._link is not None:
            self._link.close()
        with suppress(EngineAway, DockerException, requests.RequestException, TimeoutError):
            await self._engine.complete(
                lambda c: ownership.remove(c, self._container), _ENGINE_SECONDS
            )


def _envelope(limits: Limits) -> hardening.Envelope:
    return hardening.Envelope(
        memory=limits.memory,
        cpus=limits.cpus,
        processes=limits.processes + 2,
        tmpfs=limits.scratch,
        files=limits.open_files,
    )


def _tmpfs(limits: Limits) -> dict[str, str]:
    flags = f"rw,nosuid,nodev,nr_inodes={limits.inodes}"
    return {
        "/work": f"{flags},size={limits.disk},mode=1777",
        "/tmp": f"{flags},size={limits.scratch},mode=1777",  # noqa: S108 - the container's own
    }


def _create(
    client: DockerClient, config: dict[str, Any], limits: Limits, packages: Sequence[Path]
) -> str:
    """A container that was inspected and found as it must be, not started."""
    made = client.api.create_container_from_config(config)  # type: ignore[no-untyped-call]
    container = str(made["Id"])
    inspected = _without_packages(client.api.inspect_container(container), packages)
    found = hardening.deviations(inspected, _envelope(limits), init=False)
    if found:
        ownership.remove(client, container)
        raise SandboxBroken(f"the engine made another container: {', '.join(found)}")
    return container


def _without_packages(inspected: dict[str, Any], packages: Sequence[Path]) -> dict[str, Any]:
    """As it would be without the mounts that we asked for: those folders, read-only."""
    asked = {f"{SHOWN}/{p.name}": str(p) for p in packages}
    host = inspected["HostConfig"]
    return {
        **inspected,
        "HostConfig": {
            **host,
            "Mounts": [
                m
                for m in host.get("Mounts") or []
                if not (m.get("ReadOnly") and asked.get(m["Target"]) == m["Source"])
            ],
        },
        "Mounts": [
            m
            for m in inspected.get("Mounts") or []
            if m.get("RW") or asked.get(m["Destination"]) != m.get("Source")
        ],
    }


def _start(client: DockerClient, container: str) -> Wire:
    wire = Wire(client, container, output=True)
    try:
        client.api.start(container)
    except BaseException:
        wire.close()
        raise
    return wire
