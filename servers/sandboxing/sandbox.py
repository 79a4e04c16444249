"""The door to running code: the best backend that passed its self-test, or a refusal that helps.

Above: the tool servers. Below: the backends, `selftest`, `outcome`.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import anyio.to_thread

from servers.sandboxing.outcome import Limits, Outcome, SandboxBroken, refused
from servers.sandboxing.selftest import Backend, weaknesses

logger = logging.getLogger(__name__)

_TRY_AGAIN_SECONDS = 15.0
_CHOICE_SECONDS = 60.0

HOW_TO_GET_ONE = (
    "install bubblewrap on Linux (`apt install bubblewrap`, `dnf install bubblewrap`, with user"
    " namespaces allowed), or start a Docker engine that has the image {image}"
    " (`docker pull {image}`)"
)


BACKENDS = ("auto", "bubblewrap", "docker")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator decides.

    `backend` is one of BACKENDS; `python` the interpreter for bubblewrap, None for the
    best that is there; `image` the one for Docker; `at_once` how many sandboxes run side by side.
    """

    backend: str = "auto"
    python: str | None = None
    image: str = "python:3.13-slim"
    limits: Limits = field(default_factory=Limits)
    at_once: int = 4
    patience: float = 20.0


Candidates = Callable[[Settings], Iterator[Backend]]


class Sandbox:
    """Runs code in sandboxes, each made for one call; never in this process, never unprotected."""

    def __init__(self, settings: Settings, candidates: Candidates | None = None) -> None:
        self._settings = settings
        self._candidates = candidates or _candidates
        self._backend: Backend | None = None
        self._why_not: list[str] = []
        self._tried = float("-inf")
        self._choosing = anyio.Lock()
        self._places = anyio.CapacityLimiter(settings.at_once)

    @asynccontextmanager
    async def ready(self) -> AsyncIterator[None]:
        """Choose a backend in the background for as long as the context lasts."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_choosing)
            yield
            tasks.cancel_scope.cancel()

    async def _keep_choosing(self) -> None:
        """Until there is one: an engine may come up later."""
        while self._backend is None:
            try:
                await self._choose()
            except Exception:
                logger.exception("no backend could be chosen")
            await anyio.sleep(_TRY_AGAIN_SECONDS)

    @property
    def missing(self) -> str | None:
        """Why code can't be run now, and what to do; None when it can."""
        if self._backend is not None:
            return None
        if not self._why_not:
            return "the sandbox's self-test is still running"
        advice = HOW_TO_GET_ONE.format(image=self._settings.image)
        return f"no sandbox on this machine: {'; '.join(self._why_not)}. To get one: {advice}"

    async def run(self, code: str) -> Outcome:
        """Run the code in a fresh sandbox; the first call waits for the self-test."""
        limits = self._settings.limits
        if len(code.encode("utf-8", "replace")) > limits.code:
            return refused(f"the code is longer than {limits.code} bytes")
        backend = await self._choose()
        if backend is None:
            return refused(self.missing or "no sandbox")
        return await self._run(backend, code, limits)

    async def _run(self, backend: Backend, code: str, limits: Limits) -> Outcome:
        with anyio.move_on_after(self._settings.patience) as queue:
            await self._places.acquire_on_behalf_of(queue)
        if queue.cancelled_caught:
            return refused("all sandboxes are busy: try again later")
        try:
            return await backend.run(code, limits)
        except (SandboxBroken, OSError) as e:
            logger.exception("a sandbox did not come up")
            return refused(f"the sandbox did not come up: {e}")
        finally:
            self._places.release_on_behalf_of(queue)

    async def _choose(self) -> Backend | None:
        if self._backend is not None:
            return self._backend
        async with self._choosing:
            if self._backend is None and time.monotonic() - self._tried >= _TRY_AGAIN_SECONDS:
                self._backend, self._why_not = await self._try_all()
                self._tried = time.monotonic()
        return self._backend

    async def _try_all(self) -> tuple[Backend | None, list[str]]:
        why_not = []
        candidates = self._candidates(self._settings)
        while backend := await anyio.to_thread.run_sync(next, candidates, None):
            found = ["its self-test did not end in time"]
            with anyio.move_on_after(_CHOICE_SECONDS):
                found = await weaknesses(backend)
            if not found:
                logger.info("sandbox", extra={"backend": backend.name, **backend.isolation})
                return backend, []
            logger.warning("not usable", extra={"backend": backend.name, "found": found})
            why_not.append(f"{backend.name}: {', '.join(found)}")
        nothing = f"neither bubblewrap nor a Docker engine with {self._settings.image} was found"
        return None, why_not or [nothing]


def _candidates(settings: Settings) -> Iterator[Backend]:
    """Best first: bubblewrap that can bound memory, Docker, bubblewrap that can't."""
    bwrap = _bubblewraps(settings) if settings.backend != "docker" else None
    if bwrap is not None and bwrap.bounded:
        yield from bwrap.backends
    if settings.backend != "bubblewrap":
        yield from _docker(settings)
    if bwrap is not None and not bwrap.bounded:
        yield from bwrap.backends


@dataclass(frozen=True, slots=True)
class _Bubblewraps:
    """A backend for each Python that may do, and whether the sum of their memory is bounded."""

    backends: tuple[Backend, ...]
    bounded: bool


def _bubblewraps(settings: Settings) -> _Bubblewraps | None:
    if sys.platform != "linux":
        return None
    from servers.sandboxing import bubblewrap, cgroup

    path = bubblewrap.find_bwrap()
    if path is None:
        return None
    groups = cgroup.find()
    if groups is not None:
        groups.sweep()
    pythons = bubblewrap.interpreters(settings.python)
    backends = tuple(bubblewrap.Bubblewrap(path, p, groups) for p in pythons)
    return _Bubblewraps(backends, groups is not None)


def _docker(settings: Settings) -> Iterator[Backend]:
    from servers.sandboxing.containers import Containers  # slow to import, seldom needed

    containers = Containers.find(settings.image)
    if containers is not None:
        yield containers
