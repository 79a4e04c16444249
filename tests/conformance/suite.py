"""The conformance tool of the Model Context Protocol, run as its users run it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests import installed
from tests.conformance.checks import Report, read

PACKAGE = "@modelcontextprotocol/conformance"
RUN_TIMEOUT = 120.0


@dataclass(frozen=True, slots=True)
class Run:
    """A release of the tool and a protocol revision that it knows."""

    release: str
    revision: str

    def __str__(self) -> str:
        return f"{self.revision}-by-{self.release}"


STABLE, NEXT = "0.1.16", "0.2.0-alpha.12"
RUNS = (
    Run(NEXT, "2025-03-26"),
    Run(STABLE, "2025-06-18"),
    Run(NEXT, "2025-06-18"),
    Run(STABLE, "2025-11-25"),
    Run(NEXT, "2025-11-25"),
    Run(NEXT, "2026-07-28"),
)


def check_server(run: Run, url: str, scenario: str | None = None) -> Report:
    """What the tool finds as a client of the server at `url`: all scenarios, or one."""
    which = ["--scenario", scenario] if scenario else ["--suite", "all"]
    return _run(run, ["server", "--url", url, *which])


def check_client(run: Run, command: str, scenario: str) -> Report:
    """What the tool finds as the server of a client: `command` gets the server's URL appended."""
    return _run(run, ["client", "--command", command, "--scenario", scenario])


def _run(run: Run, arguments: Sequence[str]) -> Report:
    program = installed.npm(f"{PACKAGE}@{run.release}") / PACKAGE / "dist" / "index.js"
    with tempfile.TemporaryDirectory(prefix="mcpcp-conformance-") as folder:
        output = Path(folder, "output")
        command = [str(installed.node()), str(program), *arguments]
        # Not by its exit code: a failed check is a finding, and what we want is in the files.
        ended = subprocess.run(
            [*command, "--spec-version", run.revision, "--output-dir", str(output)],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": folder},
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT,
        )
        report = read(output) if output.exists() else Report({})
    assert report.scenarios, f"the tool ran no scenario:\n{(ended.stderr or ended.stdout)[-2000:]}"
    return report
