"""What the operator decides, and what an agent is answered."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from servers.docker_policy.hardening import Envelope
from servers.docker_policy.images import DEFAULT, Allowlist
from servers.sandboxing.text import sanitize

Status = Literal["ok", "error", "refused", "timeout", "unavailable"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator decides; `seconds` is how long a container in the foreground may take."""

    allowlist: Allowlist = field(default_factory=lambda: Allowlist.of(DEFAULT))
    envelope: Envelope = field(default_factory=Envelope)
    seconds: float = 50.0
    containers: int = 8
    output: int = 100_000


class Answer(BaseModel):
    """What the command came to."""

    model_config = ConfigDict(frozen=True)

    status: Status = Field(
        description="ok; error (exit_code is not 0); refused (stderr says why, and what is"
        " possible); timeout; unavailable (there is no Docker engine: stderr says how to get one)"
    )
    exit_code: int | None = None
    stdout: str = ""
    stderr: str = ""
    truncated: bool = Field(default=False, description="whether output is missing at its end")
    container: str | None = Field(
        default=None, description="id of the container that the command left"
    )


def done(stdout: str) -> Answer:
    """It did what it says."""
    return Answer(status="ok", stdout=stdout, exit_code=0)


def failed(stderr: str, stdout: str = "") -> Answer:
    """The engine says no."""
    return Answer(status="error", stdout=stdout, stderr=stderr, exit_code=1)


def bounded(answer: Answer, size: int) -> Answer:
    """Safe to show, and not longer than anybody reads."""
    stdout, stderr = sanitize(answer.stdout), sanitize(answer.stderr)
    shown = {
        "stdout": stdout[:size],
        "stderr": stderr[:size],
        "truncated": max(len(stdout), len(stderr)) > size,
    }
    return answer.model_copy(update=shown)
