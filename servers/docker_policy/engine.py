"""The Docker engine: found where the docker CLI would find it, also when it comes up later."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import anyio
import anyio.to_thread
import docker
import requests
from docker.errors import DockerException

T = TypeVar("T")

HOW_TO_GET_ONE = (
    "no Docker engine answers: start Docker Desktop or dockerd (Linux: `sudo systemctl start"
    " docker`, and put this user into the group docker), or point DOCKER_HOST to an engine"
)

_CONNECT_SECONDS = 5
_ASK_AGAIN_SECONDS = 3.0


class EngineAway(Exception):
    """No engine answers; the message says how to get one."""

    def __init__(self) -> None:
        super().__init__(HOW_TO_GET_ONE)


class Engine:
    """A client that connects when it is needed; its methods block, except `call`."""

    def __init__(self, timeout: int = 30) -> None:
        self._timeout = timeout
        self._client: docker.DockerClient | None = None
        self._lock = threading.Lock()
        self._asked = float("-inf")
        self._here = False

    def client(self) -> docker.DockerClient:
        """A client whose engine answered; raises EngineAway."""
        with self._lock:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def _connect(self) -> docker.DockerClient:
        try:
            client = docker.from_env(timeout=_CONNECT_SECONDS)
        except (DockerException, requests.RequestException, OSError) as e:
            raise EngineAway from e
        try:
            client.ping()
        except (DockerException, requests.RequestException, OSError) as e:
            client.close()
            raise EngineAway from e
        client.api.timeout = self._timeout
        return client

    def forget(self) -> None:
        """Drop a client whose engine went away; the next use connects again."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            with suppress(OSError):
                client.close()

    def answers(self) -> bool:
        """Whether an engine is there; asked at most every few seconds."""
        now = time.monotonic()
        if now - self._asked >= _ASK_AGAIN_SECONDS:
            self._here = self._ask()
            self._asked = now
        return self._here

    def _ask(self) -> bool:
        try:
            self.client().ping()
        except (EngineAway, DockerException, requests.RequestException, OSError):
            self.forget()
            return False
        return True

    async def call(self, do: Callable[[docker.DockerClient], T], seconds: float) -> T:
        """`do` in a worker thread; raises EngineAway, DockerException, TimeoutError.

        Cancelling leaves the thread to end by itself: the client has its own timeouts.
        """

        def work() -> T:
            try:
                return do(self.client())
            except (requests.ConnectionError, ConnectionError) as e:
                self.forget()
                raise EngineAway from e

        with anyio.fail_after(seconds):
            return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
