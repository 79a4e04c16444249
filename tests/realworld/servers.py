"""Servers that nobody here wrote, as their READMEs start them, and what is asked of each."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from tests import installed

GIT_USER = ("-c", "user.name=Tester", "-c", "user.email=tester@example.com")
GIT_DATE = "2026-01-02T03:04:05+00:00"

Call = tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class World:
    """What the servers look at: files, a repository and a web page."""

    folder: Path
    site: str

    @property
    def repository(self) -> Path:
        return self.folder / "repository"

    @property
    def files(self) -> Path:
        return self.folder / "files"


@dataclass(frozen=True, slots=True)
class Server:
    """How one is started, and calls whose answers are the same each time, good and bad ones."""

    name: str
    command: str
    args: list[str]
    calls: list[Call]
    env: dict[str, str] = field(default_factory=dict)

    @property
    def entry(self) -> dict[str, Any]:
        """Its entry in the config."""
        return {"command": self.command, "args": self.args, "env": self.env}


@contextmanager
def make_world(folder: Path) -> Iterator[World]:
    """A world that is the same each time it is made."""
    pages, files, repository = folder / "pages", folder / "files", folder / "repository"
    for each in (pages, files, repository):
        each.mkdir()
    (pages / "page.html").write_text("<html><body><h1>Hello</h1><p>World &amp; wife</p></body>")
    (files / "hello.txt").write_text("hello\nworld\n")
    _make_repository(repository)
    handler = partial(_Quiet, directory=str(pages))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as site:
        thread = Thread(target=site.serve_forever)
        thread.start()
        try:
            yield World(folder, f"http://127.0.0.1:{site.server_port}")
        finally:
            site.shutdown()
            thread.join()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: stderr is the test's."""


def _make_repository(folder: Path) -> None:
    (folder / "file.txt").write_text("one\n")
    dates = {"GIT_AUTHOR_DATE": GIT_DATE, "GIT_COMMITTER_DATE": GIT_DATE, "HOME": str(folder)}
    for command in (("init", "-q", "-b", "main"), ("add", "."), ("commit", "-q", "-m", "First")):
        subprocess.run(["git", *GIT_USER, *command], cwd=folder, env=dates, check=True)
    (folder / "file.txt").write_text("two\n")


def from_pypi(name: str, version: str) -> str:
    """The program of a package."""
    return str(installed.venv(f"{name}=={version}") / name)


def from_npm(name: str, version: str) -> str:
    """The script of one of the protocol's own packages, for `installed.node()`."""
    package = f"@modelcontextprotocol/{name}"
    return str(installed.npm(f"{package}@{version}") / package / "dist" / "index.js")


def time(world: World) -> Server:
    noon = {"source_timezone": "Asia/Tokyo", "time": "12:30", "target_timezone": "Asia/Kolkata"}
    return Server(
        "time",
        from_pypi("mcp-server-time", "2026.10.19"),
        ["--local-timezone", "Europe/Berlin"],
        [
            ("convert_time", noon),
            ("convert_time", {**noon, "time": "25:99"}),
            ("get_current_time", {"timezone": "Mars/Base"}),
            ("get_current_time", {}),
        ],
    )


def git(world: World) -> Server:
    here = {"repo_path": str(world.repository)}
    return Server(
        "git",
        from_pypi("mcp-server-git", "2026.10.19"),
        ["--repository", str(world.repository)],
        [
            ("git_log", here),
            ("git_status", here),
            ("git_diff_unstaged", here),
            ("git_show", {**here, "revision": "no-such-revision"}),
        ],
    )


def fetch(world: World) -> Server:
    return Server(
        "fetch",
        from_pypi("mcp-server-fetch", "2026.10.24"),
        ["--ignore-robots-txt", "--allow-private-ips"],
        [
            ("fetch", {"url": f"{world.site}/page.html"}),
            ("fetch", {"url": f"{world.site}/page.html", "raw": True, "max_length": 20}),
            ("fetch", {"url": f"{world.site}/no-such-page"}),
        ],
    )


def everything(world: World) -> Server:
    return Server(
        "everything",
        str(installed.node()),
        [from_npm("server-everything", "2026.8.31")],
        [
            ("echo", {"message": "Grüße, 世界"}),
            ("get-sum", {"a": 2, "b": 40.5}),
            ("get-sum", {"a": "two"}),
            ("get-tiny-image", {}),
            ("get-structured-content", {"location": "New York"}),
            ("get-annotated-message", {"messageType": "error", "includeImage": True}),
            ("get-resource-links", {"count": 3}),
        ],
    )


def filesystem(world: World) -> Server:
    file, new = str(world.files / "hello.txt"), str(world.files / "new.txt")
    return Server(
        "filesystem",
        str(installed.node()),
        [from_npm("server-filesystem", "2026.8.31"), str(world.files)],
        [
            ("read_text_file", {"path": file, "head": 1}),
            ("write_file", {"path": new, "content": "new\n"}),
            ("list_directory", {"path": str(world.files)}),
            ("read_multiple_files", {"paths": [file, new]}),
            ("read_text_file", {"path": "/etc/hostname"}),
        ],
    )


def memory(world: World) -> Server:
    entity = {"name": "Ada", "entityType": "person", "observations": ["writes programs"]}
    return Server(
        "memory",
        str(installed.node()),
        [from_npm("server-memory", "2026.8.31")],
        [
            ("create_entities", {"entities": [entity]}),
            ("search_nodes", {"query": "programs"}),
            ("delete_entities", {"entityNames": ["Ada"]}),
            ("read_graph", {}),
        ],
        {"MEMORY_FILE_PATH": str(world.folder / "memory.jsonl")},
    )


SERVERS = {make.__name__: make for make in (time, git, fetch, everything, filesystem, memory)}
