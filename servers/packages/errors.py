"""What can go wrong with packages; every message is safe to show to an agent.

NotAPackage         a name or version that can't be one
InstallationFailed  it was tried and did not work
├── BadLock         the resolution is not one that may be installed
└── Unusable        what was installed may not be shown to a sandbox
NoInstaller         nothing can be installed on this machine
└── DiskRefuses     because its disk is full, or may not be written to
PackagesRefused     what the door tells its caller
"""

from __future__ import annotations

from typing import Literal

Trouble = Literal["invalid", "blocked", "requires_approval", "failed", "unavailable"]


class NotAPackage(Exception):
    """A name or version that can't be one; the message says what one looks like."""


class InstallationFailed(Exception):
    """It was tried and did not work; the message says what the installer or the index said."""


class BadLock(InstallationFailed):
    """The resolution is not one that may be installed; the message says why."""


class Unusable(InstallationFailed):
    """What was installed may not be shown to a sandbox; the message says why."""


class NoInstaller(Exception):
    """Nothing can be installed on this machine; the message says why, and what to do."""


class DiskRefuses(NoInstaller):
    """The disk does not take it; the message says why, and what to do."""


class PackagesRefused(Exception):
    """A package can't be had; `status` says in what way, the message why, and what to do."""

    def __init__(self, status: Trouble, message: str) -> None:
        super().__init__(message)
        self.status: Trouble = status
