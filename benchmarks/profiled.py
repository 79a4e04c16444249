"""mcpcp's command line under cProfile; the figures are written to a file at its end.

python -m benchmarks.profiled FILE serve --config mcpcp.json
"""

from __future__ import annotations

import cProfile
import json
import sys
from pathlib import Path
from types import CodeType

from mcpcp.__main__ import main


def run(file: str, arguments: list[str]) -> None:
    """Run the command, which ends with a signal or an exit, and write what was measured."""
    sys.argv = ["mcpcp", *arguments]
    profile = cProfile.Profile()
    try:
        profile.runcall(main)
    finally:
        rows = [
            (_name(entry.code), entry.callcount, entry.inlinetime, entry.totaltime)
            for entry in profile.getstats()
        ]
        Path(file).write_text(json.dumps(rows))


def _name(code: str | CodeType) -> str:
    """A function of C has only a name."""
    if isinstance(code, str):
        return code
    return f"{code.co_qualname}  ({Path(code.co_filename).name}:{code.co_firstlineno})"


def most_expensive(file: Path, calls: int, count: int = 25) -> str:
    """The functions that took most time themselves, in microseconds and times per call."""
    rows = json.loads(file.read_text())
    hot = [row for row in rows if row[1] >= calls / 2]  # not the start-up
    hot.sort(key=lambda row: row[2], reverse=True)
    times = sum(row[1] for row in hot) / calls
    lines = [f"{times:.0f} function calls a call; under the profiler, which doubles their times:"]
    lines.append("  own us   with its own   times   function")
    lines += [
        f"{own / calls * 1e6:8.1f} {whole / calls * 1e6:14.1f} {times / calls:7.1f}   {name}"
        for name, times, own, whole in hot[:count]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2:])
