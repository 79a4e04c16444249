"""What packages are made for: the Python inside the sandbox, asked by running code in it."""

from __future__ import annotations

import ast

from servers.packages.errors import NoInstaller
from servers.packages.lock import Target
from servers.packages.packages import FindTarget
from servers.sandboxing.call import Call
from servers.sandboxing.sandbox import Sandbox

_ASK = (
    "import platform, sys\n(tuple(sys.version_info[:2]), platform.machine(), platform.libc_ver())"
)
_GLIBC = (17, 28, *range(31, 41))
"""The minor versions of glibc 2 by which uv knows platforms."""


def target_of(sandbox: Sandbox) -> FindTarget:
    """Asks the sandbox, once it answers."""
    found: list[Target] = []

    async def find() -> Target:
        if not found:
            outcome = await sandbox.run(Call(_ASK))
            if outcome.status != "ok" or outcome.result is None:
                raise NoInstaller(
                    outcome.stderr or f"the sandbox does not answer: {outcome.status}"
                )
            found.append(described(outcome.result))
        return found[0]

    return find


def described(answer: str) -> Target:
    """The target that `_ASK` describes; raises NoInstaller for one that no wheels are made for."""
    try:
        (major, minor), machine, (libc, version) = ast.literal_eval(answer)
        if libc != "glibc":
            return Target(f"{major}.{minor}", f"{machine}-unknown-linux-musl")
        known = max(m for m in _GLIBC if m <= int(version.split(".")[1]))
    except (ValueError, TypeError, SyntaxError, IndexError) as e:
        raise NoInstaller(f"the sandbox's Python can't be told: {answer[:200]}") from e
    return Target(f"{major}.{minor}", f"{machine}-manylinux_2_{known}")
