"""Choosing a sandbox, refusing without one, waiting for a place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import anyio
import pytest

from servers.sandboxing.bubblewrap import Bubblewrap
from servers.sandboxing.outcome import Limits, Outcome, SandboxBroken
from servers.sandboxing.sandbox import Candidates, Sandbox, Settings
from servers.sandboxing.selftest import Backend
from tests.engine import IMAGE, DockerEngine, no_engine

pytestmark = pytest.mark.anyio


def only(*backends: Backend) -> Candidates:
    def candidates(_: Settings) -> Iterator[Backend]:
        yield from backends

    return candidates


class Broken:
    """A way to run code that does not come up."""

    name = "broken"
    isolation: ClassVar[dict[str, str]] = {}

    async def run(self, code: str, limits: Limits) -> Outcome:
        raise SandboxBroken("no namespaces here")


class Open:
    """A way to run code that holds nothing in: it confesses what a probe would find."""

    name = "open"
    isolation: ClassVar[dict[str, str]] = {}
    ran: Sequence[str] = ()

    async def run(self, code: str, limits: Limits) -> Outcome:
        self.ran = [*self.ran, code]
        return Outcome("ok", 0, result="['the code is root']")


async def test_without_a_backend_code_is_refused_and_never_run() -> None:
    weak = Open()
    sandbox = Sandbox(Settings(), only(Broken(), weak))
    outcome = await sandbox.run("the_users_code()")
    assert outcome.status == "refused"
    assert "broken: no namespaces here" in outcome.stderr
    assert "open: the code is root" in outcome.stderr
    assert "apt install bubblewrap" in outcome.stderr and "docker pull" in outcome.stderr
    assert "the_users_code()" not in "".join(weak.ran)


async def test_before_the_self_test_the_sandbox_says_so() -> None:
    assert "self-test is still running" in (Sandbox(Settings(), only()).missing or "")


@pytest.mark.bwrap
async def test_the_first_call_waits_for_the_self_test(bwrap: Bubblewrap) -> None:
    sandbox = Sandbox(Settings(), only(Broken(), bwrap))
    async with sandbox.ready():
        assert (await sandbox.run("6 * 7")).result == "42"
        assert sandbox.missing is None


@pytest.mark.bwrap
async def test_calls_wait_for_a_place_and_then_give_up(bwrap: Bubblewrap) -> None:
    sandbox = Sandbox(Settings(at_once=1, patience=0.2), only(bwrap))
    await sandbox.run("1")
    outcomes: list[str] = []

    async def one() -> None:
        outcomes.append((await sandbox.run("import time\ntime.sleep(1)")).status)

    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(one)
    assert sorted(outcomes) == ["ok", "refused"]
    assert (await sandbox.run("1")).status == "ok"


async def test_code_that_is_too_long_is_refused() -> None:
    outcome = await Sandbox(Settings(), only()).run("#" * (Limits().code + 1))
    assert outcome.status == "refused" and "longer" in outcome.stderr


@pytest.mark.docker
async def test_docker_is_found_where_it_is_asked_for(
    docker_engine: DockerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", docker_engine.host)
    outcome = await Sandbox(Settings(backend="docker", image=IMAGE)).run("'in'")
    assert (outcome.status, outcome.result, outcome.backend) == ("ok", "'in'", "docker")


async def test_an_engine_without_the_image_is_no_backend(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with no_engine():
        outcome = await Sandbox(Settings(backend="docker")).run("1")
    assert outcome.status == "refused" and "nor a Docker engine" in outcome.stderr
