"""What `bubblewrap`, `kept` and `containers` have in common, as `pool` and `sandbox` see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from servers.sandboxing.conversation import Job
from servers.sandboxing.outcome import Limits, Outcome

UNLIMITED = "not limited"
"""What `isolation` says of `processors` where SANDBOX_CPUS holds nothing."""


class Cell(Protocol):
    """One sandbox that is ready; it runs one job and is discarded, whatever became of it."""

    @property
    def alive(self) -> bool:
        """Whether it still waits for its job."""
        ...

    async def run(self, job: Job) -> Outcome:
        """Run it; raises SandboxBroken where nothing was run. Cancelling kills at once."""
        ...

    async def discard(self) -> None:
        """Kill what is in it and leave nothing of it behind."""
        ...


class Backend(Protocol):
    """One way to keep code apart."""

    @property
    def name(self) -> str: ...

    @property
    def isolation(self) -> Mapping[str, str]: ...

    @property
    def late_packages(self) -> bool:
        """Whether a sandbox that is there already can be shown packages, by its job."""
        ...

    @property
    def most_warm(self) -> int:
        """How many may wait: an idle pool has to stay under 64 MB."""
        ...

    async def make(self, limits: Limits, packages: Sequence[Path] = ()) -> Cell:
        """A fresh sandbox; raises SandboxBroken when none came up."""
        ...

    async def absence(self) -> str | None:
        """What it needs and has not now, and what to do; None where a look finds nothing missing.

        Seconds at most, also where something hangs.
        """
        ...

    async def trim(self) -> None:
        """Let go of what has been of no use for a while; asked every few seconds."""
        ...

    async def close(self) -> None:
        """End everything it has made."""
        ...


def which(backend: Backend) -> str:
    """Its name, and which of its ways it is where it has several."""
    way = backend.isolation.get("container")
    return f"{backend.name} ({way})" if way else backend.name


async def run_once(backend: Backend, job: Job) -> Outcome:
    """A sandbox of its own for one job, cold; raises SandboxBroken."""
    cell = await backend.make(job.limits, job.packages)
    try:
        return await cell.run(job)
    finally:
        await cell.discard()
