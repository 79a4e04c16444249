"""The way to the database: opening it is waited for, and whatever ends it leaves nothing open."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketStream

from servers.shop import connection
from servers.shop.connection import Connection
from servers.shop.marks import new_id
from servers.shop.store import open_store
from tests.ports import reserve
from tests.shop import PATIENCE, Database, open_database

pytestmark = pytest.mark.anyio


@contextmanager
def nothing_is_left_open() -> Iterator[None]:
    """No client of the driver's is left to the garbage, which it complains of."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        yield
        gc.collect()
    assert [str(warning.message) for warning in told] == []


async def test_a_store_that_is_given_up_while_it_opens_is_closed() -> None:
    accepted, ended = anyio.Event(), anyio.Event()

    async def say_nothing(client: SocketStream) -> None:
        accepted.set()
        async with client:
            with suppress(anyio.BrokenResourceError):
                async for _ in client:
                    pass
        ended.set()

    async def enter(uri: str) -> None:
        async with open_store(uri, "shop", PATIENCE):
            raise AssertionError("nobody has answered")

    with reserve() as port, anyio.fail_after(PATIENCE), nothing_is_left_open():
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, say_nothing)
            async with anyio.create_task_group() as opening:
                opening.start_soon(enter, f"mongodb://127.0.0.1:{port}")
                await accepted.wait()
                opening.cancel_scope.cancel()
            await ended.wait()
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_store_that_is_given_up_while_it_is_used_is_closed(
    tmp_path: Path, hangs: bool
) -> None:
    with open_database(tmp_path) as database, anyio.fail_after(PATIENCE), nothing_is_left_open():
        async with anyio.create_task_group() as tasks:
            used = anyio.Event()

            async def use() -> None:
                async with open_store(database.uri, "shop", PATIENCE) as store:
                    await store.users.get("nobody")
                    used.set()
                    await anyio.sleep_forever()

            tasks.start_soon(use)
            await used.wait()
            if hangs:
                database.halt()
            tasks.cancel_scope.cancel()


async def test_a_call_waits_for_the_attempt_that_is_under_way_however_long_it_takes(
    shared_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "PATIENCE", 0.0)  # the driver's import has taken longer
    way = Connection(shared_database.uri, new_id("test"))
    with anyio.fail_after(PATIENCE):
        async with way.running():
            store = await way.store()
            assert await store.users.get("nobody") is None
