"""The engine's client: what is under way in threads when it is let go leaves nothing open."""

from __future__ import annotations

import gc
import socket
import threading
from contextlib import closing
from pathlib import Path

import anyio
import anyio.from_thread
import psutil
import pytest
from docker import DockerClient

from servers.docker_policy.engine import Engine, EngineAway
from tests.engine import DockerEngine
from tests.servers.harness import until

pytestmark = [pytest.mark.anyio, pytest.mark.docker]


@pytest.fixture
def engine(docker_engine: DockerEngine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setenv("DOCKER_HOST", docker_engine.host)
    return Engine()


async def test_work_that_nobody_waits_for_leaves_no_connection_of_a_client_that_was_dropped(
    engine: Engine,
) -> None:
    begun, dropped, asked = anyio.Event(), threading.Event(), threading.Event()
    held: list[DockerClient] = []
    open_before = psutil.Process().num_fds()

    def ask(client: DockerClient) -> None:
        held.append(client)
        anyio.from_thread.run_sync(begun.set)
        dropped.wait()
        client.ping()  # connects again
        asked.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(engine.call, ask, 600.0)
        await begun.wait()
        tasks.cancel_scope.cancel()
    engine.forget()
    dropped.set()
    await until(asked.is_set)
    await until(lambda: psutil.Process().num_fds() <= open_before)


async def test_where_nobody_listens_no_socket_is_left_to_the_garbage(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    taken = tmp_path / "left.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(taken))  # as an engine that was killed leaves it
    for path in (taken, tmp_path / "none.sock"):
        monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
        assert not Engine().ping()
        # nor by a client whose engine has gone since
        client = DockerClient(f"unix://{path}", version="1.41")
        with closing(client), pytest.raises(OSError):
            client.ping()
    gc.collect()  # a socket that nobody closed would be a warning, and that an error


async def test_an_engine_that_was_closed_is_not_connected_again(engine: Engine) -> None:
    assert engine.ping()
    engine.close()
    assert not engine.ping()
    with pytest.raises(EngineAway):
        await engine.call(lambda client: client.ping(), 600.0)
