"""Sandboxes by a Docker engine: a hardened container a call, removed when it ends.

Above: `sandbox` chooses it, `selftest` tries it. Below: `servers.docker_policy` for the engine and
the hardening, `exchange` for the words.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.to_thread
import requests
from docker import DockerClient
from docker.errors import APIError, DockerException, ImageNotFound

from servers.docker_policy import hardening, ownership
from servers.docker_policy.engine import Engine, EngineAway
from servers.docker_policy.wire import STDERR, Wire
from servers.sandboxing.exchange import Ending, Exchange, program
from servers.sandboxing.outcome import Limits, Outcome, SandboxBroken

_ENGINE_SECONDS = 30
_ENVIRONMENT = {
    "HOME": "/work",
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


@dataclass(frozen=True, slots=True)
class Containers:
    """A backend: every `run` makes a container from `image` and removes it."""

    engine: Engine
    image: str
    name: str = "docker"
    isolation: dict[str, str] = field(
        default_factory=lambda: {
            "namespaces": "mount, pid, net, ipc, uts",
            "system_calls": "filtered",
            "network": "none",
            "memory": "container",
        }
    )

    @classmethod
    def find(cls, image: str) -> Containers | None:
        """A backend where an engine answers and has the image; blocks for a moment."""
        engine = Engine()
        try:
            client = engine.client()
            ownership.sweep(client)
            client.images.get(image)
        except (EngineAway, ImageNotFound):
            return None
        except (DockerException, requests.RequestException):
            engine.forget()
            return None
        return cls(engine, image)

    async def run(self, code: str, limits: Limits) -> Outcome:
        """Run the code in a fresh container; cancelling it ends the container at once.

        Raises SandboxBroken when no container came up.
        """
        exchange = Exchange(code, limits, per_process_memory=False)
        try:
            ending = await self._run(exchange, limits)
        except (EngineAway, DockerException, requests.RequestException, TimeoutError) as e:
            self.engine.forget()
            raise SandboxBroken(str(e) or "the Docker engine did not answer in time") from e
        return exchange.outcome(ending).by(self.name, self.isolation)

    async def _run(self, exchange: Exchange, limits: Limits) -> Ending:
        async with self._container(limits) as (container, wire):
            began = time.monotonic()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_in_thread, wire.send, exchange.input())
                with anyio.move_on_after(limits.timeout) as scope:
                    await _in_thread(_listen, wire, exchange)
                duration = time.monotonic() - began
                wire.close()
            state = await self._ended(container)
        return Ending(
            duration=duration,
            timed_out=scope.cancelled_caught,
            out_of_memory=bool(state.get("OOMKilled")),
        )

    async def _ended(self, container: str) -> dict[str, Any]:
        def end(client: DockerClient) -> dict[str, Any]:
            with suppress(APIError):  # it has ended by itself
                client.api.kill(container)
            client.api.wait(container, timeout=_ENGINE_SECONDS)
            state: dict[str, Any] = client.api.inspect_container(container)["State"]
            return state

        return await self.engine.call(end, _ENGINE_SECONDS)

    @asynccontextmanager
    async def _container(self, limits: Limits) -> AsyncIterator[tuple[str, Wire]]:
        """A container that has started, and the wire to it; gone at the end of the context."""
        container = await self._created(limits)
        wire = None
        try:
            wire = await self.engine.call(lambda c: _start(c, container), _ENGINE_SECONDS)
            yield container, wire
        finally:
            if wire is not None:
                wire.close()
            await self._removed(container)

    async def _created(self, limits: Limits) -> str:
        """Shielded: a container that the engine made while nobody waited would be nobody's."""
        with anyio.CancelScope(shield=True):
            container = await self.engine.call(lambda c: self._create(c, limits), _ENGINE_SECONDS)
        return container  # noqa: RET504 - to mypy, a scope may swallow a return inside it

    async def _removed(self, container: str) -> None:
        with anyio.CancelScope(shield=True):
            await self.engine.call(lambda c: ownership.remove(c, container), _ENGINE_SECONDS)

    def _create(self, client: DockerClient, limits: Limits) -> str:
        """A container that was inspected and found as it must be, not started."""
        envelope = hardening.Envelope(
            memory=limits.memory,
            cpus=limits.cpus,
            processes=limits.processes + 2,
            tmpfs=limits.scratch,
            files=limits.open_files,
        )
        config = self._config(envelope, limits)
        container: str = _post_container(client, config)
        found = hardening.deviations(client.api.inspect_container(container), envelope, init=False)
        if found:
            ownership.remove(client, container)
            raise SandboxBroken(f"the engine made another container: {', '.join(found)}")
        return container

    def _config(self, envelope: hardening.Envelope, limits: Limits) -> dict[str, Any]:
        options = hardening.tmpfs_options
        tmpfs = {
            "/tmp": options(limits.scratch, executable=True),  # noqa: S108 - the container's own
            "/work": options(limits.disk, executable=True),
        }
        return {
            "Image": self.image,
            "Entrypoint": ["python3", "-I", "-c", program()],
            "Cmd": [],
            "User": hardening.USER,
            "WorkingDir": "/work",
            "Env": [f"{name}={value}" for name, value in _ENVIRONMENT.items()],
            "Labels": ownership.sandbox_labels(),
            "OpenStdin": True,
            "StdinOnce": True,
            "AttachStdin": True,
            "NetworkDisabled": True,
            # our first program is pid 1: a signal from the code does not reach it, and it reaps
            "HostConfig": {**hardening.host_config(envelope, tmpfs), "Init": False},
        }


def _post_container(client: DockerClient, config: dict[str, Any]) -> str:
    made = client.api.create_container_from_config(config)  # type: ignore[no-untyped-call]
    return str(made["Id"])


def _start(client: DockerClient, container: str) -> Wire:
    wire = Wire(client, container, output=True)
    try:
        client.api.start(container)
    except BaseException:
        wire.close()
        raise
    return wire


def _listen(wire: Wire, exchange: Exchange) -> None:
    for stream, data in wire.frames():
        (exchange.stderr if stream == STDERR else exchange.stdout).add(data)
        if exchange.flooded:
            return


async def _in_thread(do: Callable[..., None], *arguments: object) -> None:
    await anyio.to_thread.run_sync(do, *arguments, abandon_on_cancel=True)
