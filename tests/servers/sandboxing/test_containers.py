"""Sandboxes by a Docker engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from servers.sandboxing.containers import Containers
from servers.sandboxing.outcome import Limits
from servers.sandboxing.selftest import weaknesses
from tests.engine import IMAGE, DockerEngine

pytestmark = [pytest.mark.anyio, pytest.mark.docker]


@pytest.fixture
def backend(docker_engine: DockerEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Containers]:
    monkeypatch.setenv("DOCKER_HOST", docker_engine.host)
    found = Containers.find(IMAGE)
    assert found is not None
    yield found
    found.engine.forget()


def left(docker_engine: DockerEngine) -> list[str]:
    with docker_engine.client() as client:
        return [
            c["Id"]
            for c in client.api.containers(all=True, filters={"label": "mcpcp.agent=(sandbox)"})
        ]


async def test_a_container_passes_the_self_test(backend: Containers) -> None:
    assert await weaknesses(backend) == []


async def test_a_container_runs_code(backend: Containers) -> None:
    outcome = await backend.run("print('out')\n6 * 7", Limits(timeout=20))
    assert (outcome.status, outcome.stdout, outcome.result) == ("ok", "out\n", "42")
