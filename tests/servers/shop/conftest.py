"""A real database for the tests of the shop, one a worker; each test has tables of its own."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import pytest

from servers.shop.marks import new_id
from servers.shop.store import Store, open_store
from tests.shop import PATIENCE, Database, open_database


@pytest.fixture(scope="session")
def shared_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with open_database(tmp_path_factory.mktemp("database")) as database:
        yield database


def databases() -> list[str]:
    """The embedded one always; a real MongoDB too where there is one."""
    return ["embedded", *(["mongodb"] if os.environ.get("MONGODB_URI") else [])]


@pytest.fixture(params=databases())
async def store(request: pytest.FixtureRequest, shared_database: Database) -> AsyncIterator[Store]:
    """An empty shop."""
    real = request.param == "mongodb"
    uri = os.environ["MONGODB_URI"] if real else shared_database.uri
    name = new_id("test")
    async with open_store(uri, name, PATIENCE) as opened:
        yield opened
        if real:
            await opened.drop()
