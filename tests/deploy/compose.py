"""docker-compose on the engine of the tests; what it starts is gone at the end."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import yaml

from tests.conftest import PROJECT
from tests.deploy.images import DEADLINE
from tests.engine import NetworkedEngine


@dataclass(frozen=True, slots=True)
class Project:
    """One compose file, with a second one that replaces what can't be pulled here."""

    engine: NetworkedEngine
    name: str
    files: tuple[Path, ...]
    environ: dict[str, str]

    def command(self) -> list[str]:
        """docker-compose with the project's files."""
        files = [part for file in self.files for part in ("--file", str(file))]
        return ["docker-compose", "--project-name", self.name, *files]

    def environment(self) -> dict[str, str]:
        """What docker-compose needs to find the engine."""
        return {**os.environ, **self.environ, "DOCKER_HOST": self.engine.host}

    def run(self, *args: str) -> str:
        """Run docker-compose; what it printed."""
        ran = self._try(*args)
        if ran.returncode != 0:
            logs = self._try("logs", "--no-color").stdout
            raise AssertionError(ran.stdout[-3000:] + ran.stderr[-6000:] + logs[-6000:])
        return ran.stdout

    def _try(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command(), *args],
            cwd=self.files[0].parent,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )

    def left(self) -> dict[str, list[str]]:
        """What there is of it on the engine, by kind."""
        client = docker.DockerClient(base_url=self.engine.host, timeout=DEADLINE)
        try:
            kinds: dict[str, list[Any]] = {
                "containers": client.containers.list(all=True, ignore_removed=True),
                "networks": client.networks.list(),
                "volumes": client.volumes.list(),
            }
            return {
                kind: [one.name for one in found if one.name.startswith(self.name)]
                for kind, found in kinds.items()
            }
        finally:
            client.close()


NOTHING: dict[str, list[str]] = {"containers": [], "networks": [], "volumes": []}


@contextmanager
def project(
    engine: NetworkedEngine, name: str, files: tuple[Path, ...], environ: dict[str, str]
) -> Iterator[Project]:
    """A project to be brought up; at the end it is down and nothing of it is left."""
    opened = Project(engine, name, files, environ)
    try:
        yield opened
    finally:
        opened.run("down", "--volumes", "--timeout", "10")


def shell_blocks(page: str, section: str) -> list[str]:
    """The `sh` blocks of one section of a page in docs/."""
    text = (PROJECT / "docs" / page).read_text()
    part = text.split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"```sh\n(.*?)```", part, re.DOTALL)


def read(path: Path) -> Any:
    """A YAML file."""
    return yaml.safe_load(path.read_text())
