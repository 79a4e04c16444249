"""What a caller is told about one run, and the limits that it ran under."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

Status = Literal["ok", "error", "timeout", "memory_limit", "output_limit", "killed", "refused"]

MIB = 1 << 20


class SandboxBroken(Exception):
    """A sandbox did not come up; the message says what the machine said."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may use; times are seconds, sizes bytes.

    `output` is what is shown of each stream; a program that writes more than `flood` is ended.
    """

    timeout: float = 30.0
    memory: int = 256 * MIB
    work: int = 64 * MIB
    scratch: int = 16 * MIB
    processes: int = 64
    files: int = 256
    cpus: float = 1.0
    output: int = 100_000
    flood: int = 8 * MIB
    result: int = 20_000
    code: int = 1 * MIB


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one run ended.

    ok            it ran to its end and left with 0
    error         it raised, did not compile, or left with another exit code
    timeout       it did not end in the time it had
    memory_limit  it asked for more memory than it may have
    output_limit  it wrote so much that it was stopped
    killed        a signal ended it; `exit_code` is minus its number
    refused       it was not run; `stderr` says why

    `result` is the repr of the code's last expression. `isolation` names what held it in.
    """

    status: Status
    exit_code: int | None = None
    stdout: str = ""
    stderr: str = ""
    truncated: bool = False
    result: str | None = None
    duration_ms: int = 0
    backend: str | None = None
    isolation: Mapping[str, str] = field(default_factory=dict)

    def by(self, backend: str, isolation: Mapping[str, str]) -> Outcome:
        """This outcome, signed by the backend that it came from."""
        return replace(self, backend=backend, isolation=isolation)


def refused(why: str) -> Outcome:
    """Nothing was run, and why."""
    return Outcome("refused", stderr=why)
