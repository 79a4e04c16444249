"""Containers for sandboxes in one Docker engine: made, started, removed, whatever is in them.

Above: `containers` and `kept`. Below: `servers.docker_policy` for the engine and the hardening.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from functools import partial
from typing import Any

import requests
from docker import DockerClient
from docker.errors import DockerException

from servers.docker_policy import container, ownership
from servers.docker_policy.engine import Engine, EngineAway
from servers.sandboxing.outcome import SandboxBroken
from servers.sandboxing.plan import ENVIRONMENT
from servers.sandboxing.text import decode
from servers.sandboxing.wirelink import WireLink

_ENGINE_SECONDS = 120
_LOOK_SECONDS = 10.0

TROUBLE = (
    EngineAway,
    DockerException,
    requests.RequestException,
    OSError,  # no thread or no descriptor is left; a TimeoutError is one, too
)
_FULL = ("no space left on device", "disk quota exceeded")
_STRONGER = {"runsc": "gVisor", "kata": "Kata", "kata-runtime": "Kata"}


def stronger(runtimes: Any) -> list[str]:
    """Those of an engine that put more than the host's kernel around the code, best first."""
    return [name for name in _STRONGER if name in runtimes]


class Hosting:
    """Makes containers of one image under one runtime."""

    def __init__(self, engine: Engine, image: str, runtime: str | None = None) -> None:
        """`runtime` as the engine calls it, None for its usual one."""
        self._engine = engine
        self.image = image
        self._runtime = runtime
        self._remains: set[str] = set()

    @property
    def kernel(self) -> str:
        """Whose kernel the code talks to."""
        return _STRONGER.get(self._runtime or "", "the host's")

    def config(self, program: str, arguments: list[str], host: dict[str, Any]) -> dict[str, Any]:
        """What a container that runs this Python is made with; `host` is its HostConfig."""
        runtime = {"Runtime": self._runtime} if self._runtime else {}
        return {
            # our first program is pid 1: a signal from the code does not reach it, and it reaps
            **container.config(
                self.image, ["python3", "-I", "-c", program], {**host, "Init": False, **runtime}
            ),
            "Cmd": arguments,
            "WorkingDir": "/work",
            "Env": [f"{name}={value}" for name, value in ENVIRONMENT.items()],
            "Labels": ownership.sandbox_labels(),
        }

    async def start(self, config: dict[str, Any]) -> Hosted:
        """A container that has started; raises SandboxBroken or one of TROUBLE."""
        # named by us: an engine that leaves may have made it without a chance to say so
        name = f"mcpcp-sandbox-{os.getpid()}-{secrets.token_hex(6)}"
        hosted = Hosted(self._engine, name, self._remains)
        try:
            await self._clear()
            await self._engine.complete(lambda c: _create(c, config, name), _ENGINE_SECONDS)
            await hosted.start()
        except BaseException:
            await hosted.discard()
            raise
        return hosted

    def broken(self, trouble: Exception) -> SandboxBroken:
        """One of TROUBLE in words for the caller; the next container asks the engine anew."""
        self._engine.forget()
        return SandboxBroken(_in_words(trouble))

    async def _clear(self) -> None:
        """Remove what could not be removed while the engine was away: it keeps its containers."""
        for name in list(self._remains):
            remove = partial(ownership.remove, container=name)
            with suppress(*TROUBLE):
                await self._engine.complete(remove, _ENGINE_SECONDS)
                self._remains.discard(name)

    async def absence(self) -> str | None:
        """Whether the engine answers."""
        try:
            await self._engine.call(DockerClient.ping, _LOOK_SECONDS)
        except EngineAway as e:
            return str(e)
        except TROUBLE as e:
            return f"the Docker engine does not answer as it should: {e or 'its time was up'}"
        return None

    async def close(self) -> None:
        """The containers are gone with those who asked for them; let go of the engine."""
        await self._clear()
        self._engine.close()


class Hosted:
    """A container and the wire to it."""

    def __init__(self, engine: Engine, name: str, remains: set[str]) -> None:
        """`remains`: where `discard` notes a container that the engine did not remove."""
        self._engine = engine
        self._name = name
        self._remains = remains
        self._link: WireLink | None = None

    async def start(self) -> None:
        """Start it, its standard streams in our hands."""
        start = partial(container.start, container=self._name, output=True)
        wire = await self._engine.complete(start, _ENGINE_SECONDS)
        try:
            self._link = WireLink(wire)
        except OSError:
            wire.close()
            raise

    @property
    def link(self) -> WireLink:
        """The way to its first program."""
        if self._link is None:
            raise SandboxBroken("the container has not started")
        return self._link

    @property
    def complaint(self) -> str:
        """The last line that its first program wrote to standard error: of an error, what it is."""
        lines = decode(self.link.complaint.encode()).strip().splitlines()
        return lines[-1] if lines else ""

    async def ran_out_of_memory(self) -> bool:
        """End it; whether the engine knows of a process that was ended for want of memory."""
        end = partial(container.end, container=self._name)
        try:
            return bool((await self._engine.call(end, _ENGINE_SECONDS)).get("OOMKilled"))
        except TROUBLE:
            return False

    async def discard(self) -> None:
        """Let go of it and have it removed; an engine that is away is told when it is back."""
        if self._link is not None:
            self._link.close()
        remove = partial(ownership.remove, container=self._name)
        try:
            await self._engine.complete(remove, _ENGINE_SECONDS)
        except TROUBLE:
            self._remains.add(self._name)


def _in_words(e: Exception) -> str:
    """What a caller can do about it; an engine names its own folders where its disk is full."""
    said = str(e)
    if any(full in said.lower() for full in _FULL):
        return (
            "the Docker engine's disk is full: try again later; the operator has to make room where"
            " the engine keeps its data (`docker system df` shows what takes it)"
        )
    return said or "the Docker engine did not answer in time"


def _create(client: DockerClient, config: dict[str, Any], name: str) -> str:
    try:
        return container.create(client, config, name)
    except container.Otherwise as e:
        raise SandboxBroken(str(e)) from e
