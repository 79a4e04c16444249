"""`mcpcp down` and its like, against what a fleet may do while it ends."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mcpcp.config import runtime_dir
from mcpcp.control import CONTROL_SOCKET
from tests.cli.project import Project
from tests.fleet import PATIENCE


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A config whose runtime folder is the test's own; a unix socket's path has to be short."""
    with tempfile.TemporaryDirectory(prefix="mcpcp-", dir="/tmp") as runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        yield Project(tmp_path)


def test_a_fleet_that_ends_before_it_has_answered_is_stopped(project: Project) -> None:
    place = runtime_dir(project.config)

    def end_without_a_word(listener: socket.socket) -> bytes:
        with listener, listener.accept()[0] as client:
            return client.recv(1000)

    listener = socket.create_server(str(place / CONTROL_SOCKET), family=socket.AF_UNIX)
    with ThreadPoolExecutor() as others:
        asked = others.submit(end_without_a_word, listener)
        assert project.ok("down") == f"stopped the servers of {project.config}\n"
        assert b'"stop"' in asked.result(PATIENCE)


def test_where_nothing_runs_that_is_said(project: Project) -> None:
    assert project.ok("down") == f"nothing runs for {project.config}\n"
