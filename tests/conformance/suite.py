"""The conformance tool of the Model Context Protocol, run as its users run it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests import installed
from tests.conformance.checks import Report, read
from tests.gateway.harness import PROJECT

PACKAGE = "@modelcontextprotocol/conformance"
RUN_TIMEOUT = 500.0
SCENARIO_TIMEOUT = 90.0
"""For one scenario, where the tool has bounds of its own."""
CLIENT_TIMEOUT = 150.0
"""For a scenario in which it plays the server."""


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


ECHO = "json-schema-2020-12-preservation"
CLIENT_RUNS = (
    *((Run(NEXT, "2025-06-18"), name) for name in ("initialize", "tools_call")),
    *(
        (Run(NEXT, "2025-11-25"), name)
        for name in (
            "initialize",
            "tools_call",
            "elicitation-sep1034-client-defaults",
            "sse-retry",
            ECHO,
        )
    ),
    *(
        (Run(NEXT, "2026-07-28"), name)
        for name in (
            "tools_call",
            "request-metadata",
            "sep-2322-client-request-state",
            "http-standard-headers",
            "http-custom-headers",
            "http-invalid-tool-headers",
            "json-schema-ref-no-deref",
            ECHO,
        )
    ),
)
"""The scenarios for clients that say something about a gateway's backend: README.md says what."""


class NothingRan(AssertionError):
    """The tool ran no scenario; the message is what it said."""


def check_server(run: Run, url: str, scenario: str | None = None) -> Report:
    """What the tool finds as a client of the server at `url`: all scenarios, or one."""
    which = ["--scenario", scenario] if scenario else ["--suite", "all"]
    if run.release != STABLE:
        which += ["--timeout", str(int(SCENARIO_TIMEOUT * 1000))]
    return _run(run, ["server", "--url", url, *which])


def check_client(run: Run, scenario: str, through: Path | None = None) -> Report:
    """What the tool finds as the server of the SDK's client; with a gateway between the two, whose
    keys are in `through`."""
    program = [sys.executable, "-m", "tests.conformance.client"]
    if through is not None:
        program += ["--through", str(through)]
    bound = ["--timeout", str(int(CLIENT_TIMEOUT * 1000))]
    return _run(run, ["client", "--command", " ".join(program), "--scenario", scenario, *bound])


def _run(run: Run, arguments: Sequence[str]) -> Report:
    program = installed.npm(f"{PACKAGE}@{run.release}") / PACKAGE / "dist" / "index.js"
    with tempfile.TemporaryDirectory(prefix="mcpcp-conformance-") as folder:
        output = Path(folder, "output")
        where = ["--spec-version", run.revision, "--output-dir", str(output)]
        said = _said([str(installed.node()), str(program), *arguments, *where], folder)
        report = read(output, said) if output.exists() else Report({})
    if not report.scenarios:
        raise NothingRan(said[-2000:])
    return report


def _said(command: Sequence[str], folder: str) -> str:
    """What the tool prints. Not its exit code: a failed check is a finding like any other. Where
    it hangs, its findings up to there stand, and the rest counts as lost."""
    environ = {"PATH": os.environ["PATH"], "HOME": folder, "PYTHONPATH": str(PROJECT)}
    said = Path(folder, "said")
    with said.open("wb") as file, contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            command, cwd=folder, env=environ, stdout=file, stderr=file, timeout=RUN_TIMEOUT
        )
    return said.read_text(errors="replace")
