"""`python -m tests.conformance`: what a client notices of the gateway, check by check.

    python -m tests.conformance                                # everything
    python -m tests.conformance --revision 2025-06-18 --behind http
    python -m tests.conformance --revision 2026-07-28 --scenario tools-list
    python -m tests.conformance --client                       # the gateway's side to its servers

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
from tests.conformance.accepted import Side, wrong
from tests.conformance.checks import Report, differences, render
from tests.conformance.stage import Behind, Stage, stage
from tests.fleet import make_keys

Pair = tuple[Report, Report]
"""What was found directly, and what through the gateway."""


def main() -> int:
    options = _options()

    def is_wanted(run: suite.Run) -> bool:
        return options.revision in (None, run.revision) and options.release in (None, run.release)

    with tempfile.TemporaryDirectory(prefix="mcpcp-conformance-") as folder:
        comparer = Comparer(Path(folder), options.scenario, options.verbose)
        if options.client:
            return comparer.clients([each for each in suite.CLIENT_RUNS if is_wanted(each[0])])
        runs = [run for run in suite.RUNS if is_wanted(run)]
        behinds: list[Behind] = [options.behind] if options.behind else list(get_args(Behind))
        return max(comparer.servers(behind, runs) for behind in behinds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    revisions = sorted({run.revision for run in suite.RUNS})
    parser.add_argument("--revision", choices=revisions, help="default: all")
    parser.add_argument("--release", choices=[suite.STABLE, suite.NEXT], help="of the tool")
    parser.add_argument("--behind", choices=get_args(Behind), help="default: all")
    parser.add_argument("--scenario", help="default: all")
    parser.add_argument("--client", action="store_true", help="the client's scenarios instead")
    parser.add_argument("--verbose", action="store_true", help="also what tool and gateway said")
    return parser.parse_args()


class Comparer:
    """Runs and prints comparisons; each method is 1 where something differs."""

    def __init__(self, folder: Path, scenario: str | None, verbose: bool) -> None:
        self._folder = folder
        self._scenario = scenario
        self._verbose = verbose
        self._keys = make_keys(folder / "keys")

    def servers(self, behind: Behind, runs: list[suite.Run]) -> int:
        """What the tool finds of a server."""
        place = self._folder / behind
        place.mkdir()
        with stage(place, self._keys, behind) as staged, ThreadPoolExecutor(2) as pool:
            pairs = pool.map(lambda run: self._server(staged, run), runs)
            differ = 0
            for run, pair in zip(runs, pairs, strict=True):
                differ |= self._show(f"{run}, over {behind} behind", pair, behind)
            if self._verbose:
                print(staged.gateway.text())
        return differ

    def clients(self, played: list[tuple[suite.Run, str]]) -> int:
        """What the tool's servers see of their clients."""
        chosen = [(run, name) for run, name in played if self._scenario in (None, name)]
        if not chosen:
            print(f"the tool has no such scenario here: {self._scenario}")
            return 1
        with ThreadPoolExecutor(2) as pool:
            pairs = list(pool.map(lambda each: self._client(*each), chosen))
        return max(
            self._show(f"{run}, client: {name}", pair)
            for (run, name), pair in zip(chosen, pairs, strict=True)
        )

    def _server(self, staged: Stage, run: suite.Run) -> Pair | None:
        try:
            direct = suite.check_server(run, staged.direct, self._scenario)
        except suite.NothingRan:
            if self._scenario is None:
                raise
            return None
        return direct, suite.check_server(run, staged.through, self._scenario)

    def _client(self, run: suite.Run, name: str) -> Pair:
        return suite.check_client(run, name), suite.check_client(run, name, self._keys)

    def _show(self, what: str, pair: Pair | None, side: Side = "client") -> int:
        if pair is None:
            print(f"\n=== {what}: the tool has no such scenario here")
            return 0
        found = wrong(side, differences(*pair))
        print(f"\n=== {what}: {len(found)} differences")
        print(render(found))
        if self._verbose:
            print(pair[1].said)
        return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
