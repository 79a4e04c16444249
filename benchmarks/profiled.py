"""mcpcp's command line under cProfile; the figures are written to a file at its end.

python -m benchmarks.profiled FILE serve --config mcpcp.json
"""

from __future__ import annotations

import cProfile
import pstats
import sys
import time
from pathlib import Path

from mcpcp.__main__ import main


def run(file: str, arguments: list[str]) -> None:
    """Run the command, which ends with a signal or an exit, and write what was measured."""
    sys.argv = ["mcpcp", *arguments]
    profile = cProfile.Profile(time.process_time)  # what else the machine does counts for nothing
    try:
        profile.runcall(main)
    finally:
        profile.dump_stats(file)


def most_expensive(file: Path, calls: int, count: int = 25) -> str:
    """The functions that took most time themselves, in microseconds and times per call."""
    stats = pstats.Stats(str(file)).get_stats_profile().func_profiles
    hot = [item for item in stats.items() if _times(item[1]) >= calls / 2]  # not the start-up
    ranked = sorted(hot, key=lambda item: item[1].tottime, reverse=True)[:count]
    lines = ["  own us   with its own   times   function  (under the profiler, which doubles all)"]
    for name, each in ranked:
        own, whole = each.tottime / calls * 1e6, each.cumtime / calls * 1e6
        times = _times(each) / calls
        where = f"{Path(each.file_name).name}:{each.line_number}"
        lines.append(f"{own:8.1f} {whole:14.1f} {times:7.1f}   {name}  ({where})")
    return "\n".join(lines)


def _times(function: pstats.FunctionProfile) -> int:
    return int(str(function.ncalls).partition("/")[0])


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2:])
