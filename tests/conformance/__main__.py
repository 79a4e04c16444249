"""`python -m tests.conformance`: what a client notices of the gateway, check by check.

    python -m tests.conformance                                # everything
    python -m tests.conformance --revision 2025-06-18 --behind http
    python -m tests.conformance --revision 2026-07-28 --scenario tools-list

It ends with 1 where something differs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

from tests.conformance import suite
from tests.conformance.accepted import wrong
from tests.conformance.checks import Difference, differences, render
from tests.conformance.stage import Behind, Stage, stage
from tests.fleet import make_keys

BEHIND = get_args(Behind)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    revisions = sorted({run.revision for run in suite.RUNS})
    parser.add_argument("--revision", choices=revisions, help="default: all")
    parser.add_argument("--release", choices=[suite.STABLE, suite.NEXT], help="of the tool")
    parser.add_argument("--behind", choices=BEHIND, help="default: all")
    parser.add_argument("--scenario", help="default: all")
    options = parser.parse_args()
    runs = [
        run
        for run in suite.RUNS
        if options.revision in (None, run.revision) and options.release in (None, run.release)
    ]
    with tempfile.TemporaryDirectory(prefix="mcpcp-conformance-") as folder:
        keys = make_keys(Path(folder, "keys"))
        behinds = [options.behind] if options.behind else BEHIND
        place = Path(folder)
        bad = sum(_compare(place, keys, behind, runs, options.scenario) for behind in behinds)
    return 1 if bad else 0


def _compare(
    folder: Path, keys: Path, behind: Behind, runs: list[suite.Run], scenario: str | None
) -> int:
    """Print the differences of all runs; how many there are."""
    place = folder / behind
    place.mkdir()
    with stage(place, keys, behind) as staged, ThreadPoolExecutor(2) as pool:
        results = pool.map(lambda run: _run(staged, run, scenario), runs)
        number = 0
        for run, every in zip(runs, results, strict=True):
            found = wrong(behind, every)
            number += len(found)
            print(f"\n=== {run}, over {behind} behind: {len(found)} differences")
            print(render(found))
    return number


def _run(staged: Stage, run: suite.Run, scenario: str | None) -> list[Difference]:
    direct = suite.check_server(run, staged.direct, scenario)
    return differences(direct, suite.check_server(run, staged.through, scenario))


if __name__ == "__main__":
    sys.exit(main())
