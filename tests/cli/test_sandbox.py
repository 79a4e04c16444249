"""`mcpcp sandbox`: the image for sandboxes, for the servers of a config."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from servers.sandboxing import pinning
from servers.sandboxing.pinning import Pin
from tests.cli.project import Project
from tests.engine import BARE_IMAGE, DockerEngine
from tests.registry import forget, open_registry
from tests.terminal import terminal

DEADLINE = 200.0


@pytest.fixture
def mine(tmp_path: Path) -> Project:
    project = Project(tmp_path)
    configure(project)
    return project


def configure(project: Project, **env: str) -> None:
    for script in ("python_code.py", "sandbox.py"):
        (project.root / script).touch()
    servers = {
        "code": {"command": "python", "args": ["python_code.py"], "env": env},
        "box": {"command": "python", "args": ["sandbox.py"], "env": {"SANDBOX_DATA": "other"}},
        "time": {"command": "python", "args": ["time_client.py"]},
    }
    project.write({"mcpServers": servers})


def started(project: Project, *words: str, terminal: int | None = None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "mcpcp", "sandbox", *words, "--config", str(project.config)],
        env={**os.environ, "TERM": "xterm"},
        start_new_session=True,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )


def pinned(project: Project) -> Pin | None:
    return pinning.read(project.root / "data" / "sandbox")


@pytest.mark.docker
def test_an_image_is_pulled_for_the_servers_of_a_config(
    docker_engine: DockerEngine, mine: Project, tmp_path: Path
) -> None:
    configure(mine, DOCKER_HOST=docker_engine.host)
    with (
        open_registry(tmp_path / "registry") as registry,
        docker_engine.client() as client,
        terminal(160, 40) as screen,
    ):
        image = f"{registry.address}/team/python:1"
        digest = registry.push(client, BARE_IMAGE, "team/python:1")
        asking = started(mine, "pull", "--image", image, terminal=screen.descriptor)
        with asking as process:
            try:
                screen.wait_for("[y/N]")
                os.killpg(process.pid, signal.SIGINT)
                screen.wait_for("stopped: nothing was pinned")
                assert process.wait(DEADLINE) == 130, "the program's own word, not a traceback"
            finally:
                process.kill()
        assert pinned(mine) is None
        with started(mine, "pull", "--image", image, "--yes") as process:
            assert process.wait(DEADLINE) == 0
        assert pinned(mine) == Pin(image, digest)
        forget(client, f"{pinning.repository(image)}@{digest}")


def test_another_server_s_pin_is_its_own(mine: Project) -> None:
    for folder in (mine.root / "data" / "sandbox", mine.root / "other"):
        pinning.write(folder, Pin("python:3.13-slim", "sha256:" + "a" * 64))
    with started(mine, "unpin", "--server", "box") as process:
        assert process.wait(DEADLINE) == 0
    assert pinning.read(mine.root / "other") is None
    assert pinned(mine) is not None


def test_only_servers_that_run_code_have_an_image(mine: Project) -> None:
    assert "none of the servers that run code: code, box" in mine.error(
        "sandbox", "pull", "--server", "time"
    )
    mine.write({"mcpServers": {"time": {"command": "python", "args": ["time_client.py"]}}})
    assert "runs code" in mine.error("sandbox", "unpin")
