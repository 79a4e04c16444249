"""Servers killed at random under many clients: what the clients were told, and what ran.

    python3 -m benchmarks.chaos --seconds 60            # needs: pip install -e '.[dev]'

Prints a summary and ends with 1 where a call is unaccounted for, ran twice without leave, a session
was lost or the gateway grew. The same in short is tests/gateway/test_chaos.py.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path

from tests import chaos
from tests.fleet import make_keys, open_fleet


def main() -> int:
    """Run once; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=chaos.CLIENTS)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))  # noqa: S311
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mcpcp-chaos-") as folder:
        keys = make_keys(Path(folder) / "keys")
        (Path(folder) / "fleet").mkdir()
        with open_fleet(Path(folder) / "fleet", keys) as fleet:
            chaos.configure(fleet)
            fleet.launch()
            running = chaos.run(
                fleet, seconds=options.seconds, seed=options.seed, clients=options.clients
            )
            report = asyncio.run(running)
    print(f"{'seed':26}{options.seed}\n{report}")
    problems = report.problems()
    print("every call is accounted for" if not problems else "\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
