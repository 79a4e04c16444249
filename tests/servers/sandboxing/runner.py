"""Runs code: in a backend's sandboxes, each made for one program, or while something is done."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

from servers.sandboxing.backend import Backend, run_once
from servers.sandboxing.call import Call, Listener
from servers.sandboxing.conversation import Job
from servers.sandboxing.outcome import Limits, Outcome
from servers.sandboxing.sandbox import Sandbox
from tests.servers.harness import until


@dataclass(frozen=True)
class Runner:
    """A backend, asked for one sandbox after the other."""

    backend: Backend

    async def run(
        self,
        code: str,
        limits: Limits | None = None,
        files: Sequence[tuple[str, bytes]] = (),
        packages: tuple[Path, ...] = (),
        listener: Listener | None = None,
    ) -> Outcome:
        """What became of the code."""
        job = Job(code, limits or Limits(), files, packages, listener)
        return await run_once(self.backend, job)

    @property
    def bounded(self) -> bool:
        """Whether the memory of a whole sandbox is bounded."""
        return self.backend.isolation["memory"] != "per process only"


@asynccontextmanager
async def in_mid_call(sandbox: Sandbox) -> AsyncIterator[list[Outcome]]:
    """While code runs; afterwards its outcome is in the list."""
    outcomes: list[Outcome] = []
    began = anyio.Event()

    async def heard(stream: str, text: str) -> None:
        began.set()

    async def run() -> None:
        code = "print('here', flush=True)\nimport time\ntime.sleep(600)"
        outcomes.append(await sandbox.run(Call(code, timeout=300.0, listener=heard)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await until(began.is_set)
        yield outcomes
