"""A real Prometheus for tests, on the config that `mcpcp monitoring config` makes."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.engine import absent
from tests.fleet import PATIENCE, Fleet

QUICK = "1s"
"""Between two scrapes, in the place of the 5 s that the config says."""

Sample = dict[str, Any]


class Prometheus:
    """The running program, asked over its HTTP API."""

    def __init__(self, port: int, log: Path) -> None:
        self.port = port
        self._log = log

    def ask(self, path: str, **parameters: str) -> Any:
        """The `data` of an API answer."""
        query = urllib.parse.urlencode(parameters)
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{query}"
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[Sample]:
        """The series of an instant query whose value is a number."""
        found: list[Sample] = self.ask("query", query=expression)["result"]
        return [sample for sample in found if not math.isnan(float(sample["value"][1]))]

    def alerts(self) -> dict[str, str]:
        """Each alert rule's state: inactive, pending or firing."""
        groups = self.ask("rules")["groups"]
        return {rule["name"]: rule["state"] for group in groups for rule in group["rules"]}

    def until(self, condition: Callable[[], Any], what: Callable[[], object]) -> None:
        """Wait for it; the failure shows what there was instead."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"{what()}\n{self._log.read_text()[-3000:]}"
            time.sleep(0.2)


def program() -> str:
    """Where Prometheus is."""
    found = shutil.which("prometheus")
    if found is None:
        absent("prometheus (apt-get install prometheus)")
    return str(found)


@contextlib.contextmanager
def watching(fleet: Fleet) -> Iterator[Prometheus]:
    """Prometheus on the fleet's own config, ready, and every target found."""
    executable = program()
    folder = fleet.folder / "prometheus"
    folder.mkdir()
    config, log, port = folder / "prometheus.yml", folder / "log", fleet.port()
    made = fleet.mcpcp("monitoring", "config", "-o", str(config))
    assert made.returncode == 0, made.stderr
    config.write_text(config.read_text().replace("5s", QUICK))
    command = [executable, f"--config.file={config}", f"--storage.tsdb.path={folder}/data"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=output, stderr=output
        )
    try:
        prometheus = Prometheus(port, log)
        fleet.until(lambda: fleet.get("/-/ready", port) == 200, "prometheus is ready")
        yield prometheus
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()
