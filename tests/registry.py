"""A real registry of images for tests: Debian's docker-registry, on loopback.

Engines take 127.0.0.0/8 for registries that need no TLS.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
from docker.errors import ImageNotFound

from tests.engine import absent
from tests.ports import reserve

PATIENCE = 200.0
"""Seconds after which something hangs: how busy the machine is must not matter."""


@dataclass
class Registry:
    """A registry that answers at `address`; what it holds lies in `folder`."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def push(self, client: docker.DockerClient, image: str, name: str) -> str:
        """Put the engine's image there as `name:tag`, take the new name back; its digest."""
        full = f"{self.address}/{name}"
        repository, _, tag = full.rpartition(":")
        client.images.get(image).tag(repository, tag)
        for event in client.api.push(repository, tag=tag, stream=True, decode=True):
            assert "error" not in event, event
            if "Digest" in event.get("aux", {}):
                digest = str(event["aux"]["Digest"])
        forget(client, full, f"{repository}@{digest}")
        return digest

    def lose(self) -> None:
        """Everything that it holds."""
        shutil.rmtree(self.folder / "docker")

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Whoever asks it waits."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Nobody answers there any more."""
        self.process.kill()
        self.process.wait(PATIENCE)


def forget(client: docker.DockerClient, *names: str) -> None:
    """Take names of an image from the engine, as far as it has them."""
    for name in names:
        with suppress(ImageNotFound):
            client.images.remove(name)


@contextmanager
def open_registry(folder: Path, *, closed: bool = False) -> Iterator[Registry]:
    """One that answers; `closed` lets nobody in. At the end it is gone."""
    program = shutil.which("docker-registry")
    if program is None:
        absent("docker-registry")
    folder.mkdir()
    with reserve() as port, (folder / "log").open("wb") as log:
        config = folder / "config.yml"
        config.write_text(json.dumps(_config(folder, port, closed=closed)))  # YAML has JSON in it
        process = subprocess.Popen(
            [str(program), "serve", str(config)],
            env={"PATH": os.defpath, "OTEL_TRACES_EXPORTER": "none"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        registry = Registry(folder, port, process)
        try:
            _await(registry)
            yield registry
        finally:
            registry.stop()


def _config(folder: Path, port: int, *, closed: bool) -> Mapping[str, Any]:
    (folder / "nobody").touch()
    door = {"auth": {"htpasswd": {"realm": "tests", "path": str(folder / "nobody")}}}
    return {
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": str(folder)}},
        "http": {"addr": f"127.0.0.1:{port}"},
        **(door if closed else {}),
    }


def _await(registry: Registry) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert registry.process.poll() is None, (registry.folder / "log").read_text()
        connection = http.client.HTTPConnection("127.0.0.1", registry.port, timeout=PATIENCE)
        try:
            connection.request("GET", "/")
            connection.getresponse()
        except OSError:
            time.sleep(0.05)  # it has no way to say when it is ready
        else:
            return
        finally:
            connection.close()
    raise AssertionError((registry.folder / "log").read_text())
