"""One gateway in front of all of them, one a module and worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.gateway.harness import Gateway, open_gateway
from tests.realworld.servers import SERVERS, Server, make_world


@dataclass(frozen=True, slots=True)
class RealWorld:
    """The servers, and the gateway that has them."""

    servers: dict[str, Server]
    gateway: Gateway


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """All of them, installed."""
    with make_world(tmp_path_factory.mktemp("world")) as world:
        yield {name: make(world) for name, make in SERVERS.items()}


@pytest.fixture(scope="module")
def real(
    servers: dict[str, Server], tmp_path_factory: pytest.TempPathFactory, keys: Path
) -> Iterator[RealWorld]:
    with ExitStack() as stack:
        gateway = stack.enter_context(open_gateway(tmp_path_factory.mktemp("real"), keys))
        for name, server in servers.items():
            gateway.servers[name] = server.entry
        gateway.start()
        yield RealWorld(servers, gateway)


@pytest.fixture
def fresh(tmp_path: Path, keys: Path) -> Iterator[Gateway]:
    """A gateway of this test alone."""
    with open_gateway(tmp_path, keys) as gateway:
        yield gateway
