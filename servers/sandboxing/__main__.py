"""What this machine's sandboxes are worth: `python -m servers.sandboxing` prints JSON.

    [{"backend": ..., "isolation": {...}, "weaknesses": [...]}, ...]     the best first

The first without a weakness is the one that servers use. `mcpcp doctor` shows it.
"""

from __future__ import annotations

import json
import logging
import sys

import anyio

from servers.sandboxing.candidates import candidates
from servers.sandboxing.selftest import shortfalls, weaknesses
from servers.sandboxing.settings import BadSetting, Settings, settings

_SECONDS = 60.0


async def verdicts(wanted: Settings) -> list[dict[str, object]]:
    """Each candidate up to the first that holds, and what the others let through."""
    found: list[dict[str, object]] = []
    for backend in candidates(wanted):
        weak, isolation = ["its self-test did not end in time"], dict(backend.isolation)
        with anyio.move_on_after(_SECONDS):
            weak = await weaknesses(backend)
            isolation = dict(backend.isolation)
        with anyio.move_on_after(0 if weak else _SECONDS):
            isolation |= await shortfalls(backend)
        found.append({"backend": backend.name, "isolation": isolation, "weaknesses": weak})
        await backend.close()
        if not weak:
            break
    return found


def main() -> None:
    """Print them; exits with 2 where a SANDBOX_ variable is nonsense."""
    logging.disable()
    try:
        wanted = settings("doctor")
    except BadSetting as e:
        sys.stderr.write(f"{e}\n")
        raise SystemExit(2) from None
    json.dump(anyio.run(verdicts, wanted), sys.stdout)


if __name__ == "__main__":
    main()
