"""Sandboxes by a Docker engine: a hardened container a call, removed when it ends.

Above: `sandbox` chooses it, `selftest` tries it. Below: `servers.docker_policy` for the engine and
the hardening, `exchange` for the words.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import requests
from docker import DockerClient
from docker.errors import DockerException, ImageNotFound

from servers.docker_policy import container, hardening, ownership
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
        async with self._container(limits) as (made, wire):
            began = time.monotonic()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_in_thread, wire.send, exchange.input())
                with anyio.move_on_after(limits.timeout) as scope:
                    await _in_thread(_listen, wire, exchange)
                duration = time.monotonic() - began
                wire.close()
            state = await self.engine.call(partial(container.end, container=made), _ENGINE_SECONDS)
        return Ending(
            duration=duration,
            timed_out=scope.cancelled_caught,
            out_of_memory=bool(state.get("OOMKilled")),
        )

    @asynccontextmanager
    async def _container(self, limits: Limits) -> AsyncIterator[tuple[str, Wire]]:
        """A container that has started, and the wire to it; gone at the end of the context."""
        made = await self._created(limits)
        wire = None
        try:
            start = partial(container.start, container=made, output=True)
            wire = await self.engine.complete(start, _ENGINE_SECONDS)
            yield made, wire
        finally:
            if wire is not None:
                wire.close()
            await self._removed(made)

    async def _created(self, limits: Limits) -> str:
        return await self.engine.complete(lambda c: self._create(c, limits), _ENGINE_SECONDS)

    async def _removed(self, made: str) -> None:
        await self.engine.complete(lambda c: ownership.remove(c, made), _ENGINE_SECONDS)

    def _create(self, client: DockerClient, limits: Limits) -> str:
        """A container that was inspected and found as it must be, not started."""
        envelope = hardening.Envelope(
            memory=limits.memory,
            cpus=limits.cpus,
            processes=limits.processes + 2,
            tmpfs=limits.scratch,
            files=limits.files,
        )
        try:
            return container.create(client, self._config(envelope, limits))
        except container.Otherwise as e:
            raise SandboxBroken(str(e)) from e

    def _config(self, envelope: hardening.Envelope, limits: Limits) -> dict[str, Any]:
        options = hardening.tmpfs_options
        tmpfs = {
            "/tmp": options(limits.scratch, executable=True),  # noqa: S108 - the container's own
            "/work": options(limits.work, executable=True),
        }
        # our first program is pid 1: a signal from the code does not reach it, and it reaps
        host = {**hardening.host_config(envelope, tmpfs), "Init": False}
        return {
            **container.config(self.image, ["python3", "-I", "-c", program()], host),
            "WorkingDir": "/work",
            "Env": [f"{name}={value}" for name, value in _ENVIRONMENT.items()],
            "Labels": ownership.sandbox_labels(),
        }


def _listen(wire: Wire, exchange: Exchange) -> None:
    for stream, data in wire.frames():
        (exchange.stderr if stream == STDERR else exchange.stdout).add(data)
        if exchange.flooded:
            return


async def _in_thread(do: Callable[..., None], *arguments: object) -> None:
    await anyio.to_thread.run_sync(do, *arguments, abandon_on_cancel=True)
