"""Runs code in a backend's sandboxes, each made for one program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from servers.sandboxing.backend import Backend, run_once
from servers.sandboxing.call import Listener
from servers.sandboxing.conversation import Job
from servers.sandboxing.outcome import Limits, Outcome


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
