"""The Docker engine: found where the docker CLI would find it, also when it comes up later."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import anyio
import docker
import requests
from docker.context import ContextAPI
from docker.errors import DockerException
from docker.transport import unixconn

from servers.plumbing.threads import in_thread
from servers.serving import setting

T = TypeVar("T")

HOW_TO_GET_ONE = (
    "no Docker engine answers: start Docker Desktop or dockerd (Linux: `sudo systemctl start"
    " docker`, and put this user into the group docker), or point DOCKER_HOST to an engine"
)

_CONNECT_SECONDS = 20
_THREADS = 32


class EngineAway(Exception):
    """No engine answers; the message says how to get one."""

    def __init__(self) -> None:
        super().__init__(HOW_TO_GET_ONE)


class Engine:
    """A client that connects when it is needed; its methods block, except `call`.

    Work that nobody waits for any more may still be under way in its thread: it neither connects
    anew after `close` nor leaves a connection open."""

    def __init__(self, timeout: int = 120) -> None:
        self._timeout = timeout
        self._client: docker.DockerClient | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._threads = anyio.CapacityLimiter(_THREADS)

    def client(self) -> docker.DockerClient:
        """A client whose engine answered; raises EngineAway."""
        with self._lock:
            if self._closed:
                raise EngineAway
            if self._client is None:
                self._client = self._connect()
            return self._client

    def _connect(self) -> docker.DockerClient:
        for make in (_from_environment, _from_context):
            with suppress(DockerException, requests.RequestException, OSError):
                client = make()
                if client is not None and _answers(client):
                    client.api.timeout = self._timeout
                    return client
        raise EngineAway

    def forget(self) -> None:
        """Drop a client whose engine went away; the next use connects again."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            _let_go(client)

    def close(self) -> None:
        """Drop the client for good."""
        with self._lock:
            self._closed = True
        self.forget()

    @contextmanager
    def _use(self) -> Iterator[docker.DockerClient]:
        """A client; one that was dropped meanwhile has opened a connection again that is nobody's.

        Raises EngineAway.
        """
        client = self.client()
        try:
            yield client
        finally:
            with self._lock:
                dropped = client is not self._client
            if dropped:
                _let_go(client)

    def ping(self) -> bool:
        """Whether an engine is there now."""
        try:
            with self._use() as client:
                client.ping()
        except (EngineAway, DockerException, requests.RequestException, OSError):
            self.forget()
            return False
        return True

    async def call(self, do: Callable[[docker.DockerClient], T], seconds: float) -> T:
        """`do` in a worker thread; raises EngineAway, DockerException, TimeoutError,
        and OSError where there is no thread for it.

        Cancelling leaves the thread to end by itself: the client has its own timeouts.
        """

        def work() -> T:
            try:
                with self._use() as client:
                    return do(client)
            except (requests.ConnectionError, ConnectionError) as e:
                self.forget()
                raise EngineAway from e

        with anyio.fail_after(seconds):
            return await in_thread(work, abandon=True, limiter=self._threads)

    async def complete(self, do: Callable[[docker.DockerClient], T], seconds: float) -> T:
        """`call`, also when nobody waits any more: what it made or opened would be nobody's."""
        with anyio.CancelScope(shield=True):
            result = await self.call(do, seconds)
        return result  # noqa: RET504 - to mypy, a scope may swallow a return inside it


def _let_go(client: docker.DockerClient) -> None:
    with suppress(OSError):
        client.close()


if sys.platform != "win32":

    class _UnixConnection(unixconn.UnixHTTPConnection):
        """The SDK's, but a socket that found nobody there is closed, not left to the garbage."""

        def connect(self) -> None:
            self.sock = socket.socket(socket.AF_UNIX)
            try:
                self.sock.settimeout(self.timeout)
                self.sock.connect(self.unix_socket)
            except OSError:
                self.close()
                raise

    unixconn.UnixHTTPConnection = _UnixConnection  # type: ignore[misc]


def _from_environment() -> docker.DockerClient | None:
    """DOCKER_HOST, or the usual socket."""
    return docker.from_env(timeout=_CONNECT_SECONDS)


def _from_context() -> docker.DockerClient | None:
    """What `docker context use` chose: Docker Desktop and others put their sockets elsewhere.

    Not where DOCKER_HOST says which engine is meant: another one would be a surprise.
    """
    context = ContextAPI.get_current_context()
    if context is None or context.Name == "default" or setting("DOCKER_HOST", ""):
        return None
    return docker.DockerClient(base_url=context.Host, timeout=_CONNECT_SECONDS)


def _answers(client: docker.DockerClient) -> bool:
    try:
        client.ping()
    except (DockerException, requests.RequestException, OSError):
        client.close()
        return False
    return True
