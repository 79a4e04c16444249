"""What the operator decides, and what an agent is answered."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

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


@dataclass(frozen=True, slots=True)
class Answer:
    """What the command came to.

    ok           it did what it says
    error        the engine, or the program in the container, says no; `exit_code` is not 0
    refused      it was not run; `stderr` says why and what is possible
    timeout      it took too long and was ended
    unavailable  there is no engine; `stderr` says how to get one
    """

    status: Status
    stdout: str = ""
    stderr: str = ""
    exit_code: int | None = None
    truncated: bool = False
    container: str | None = None


def done(stdout: str) -> Answer:
    return Answer("ok", stdout=stdout, exit_code=0)


def failed(stderr: str, stdout: str = "") -> Answer:
    return Answer("error", stdout=stdout, stderr=stderr, exit_code=1)


def bounded(answer: Answer, size: int) -> Answer:
    """Safe to show, and not longer than anybody reads."""
    stdout, stderr = sanitize(answer.stdout), sanitize(answer.stderr)
    return replace(
        answer,
        stdout=stdout[:size],
        stderr=stderr[:size],
        truncated=max(len(stdout), len(stderr)) > size,
    )
