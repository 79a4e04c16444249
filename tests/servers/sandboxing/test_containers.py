"""Sandboxes by a Docker engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from servers.docker_policy import ownership
from servers.sandboxing.containers import Containers
from servers.sandboxing.outcome import MIB, Limits
from servers.sandboxing.selftest import weaknesses
from tests.engine import DockerEngine
from tests.servers.harness import DEADLINE, until
from tests.servers.sandboxing.runner import Runner
from tests.servers.sandboxing.test_honest import PROGRAMS

pytestmark = [pytest.mark.anyio, pytest.mark.docker]

LIMITS = Limits(timeout=DEADLINE)


@pytest.fixture
def docker_runner(
    sandbox_image: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Runner]:
    host, image = sandbox_image
    monkeypatch.setenv("DOCKER_HOST", host)
    backend = next(Containers.find([image]))
    yield Runner(backend)
    anyio.run(backend.close)


def left(docker_engine: DockerEngine) -> list[str]:
    """Containers that this process made."""
    label = f"{ownership.MAKER}={ownership.maker()}"
    with docker_engine.client() as client:
        return [c["Id"] for c in client.api.containers(all=True, filters={"label": label})]


async def test_a_container_passes_the_self_test(docker_runner: Runner) -> None:
    assert await weaknesses(docker_runner.backend) == []


@pytest.mark.parametrize("what", PROGRAMS)
async def test_in_a_container_there_is(what: str, docker_runner: Runner) -> None:
    code, result = PROGRAMS[what]
    outcome = await docker_runner.run(code, LIMITS)
    assert (outcome.status, outcome.result) == ("ok", result), outcome


async def test_a_container_runs_code_and_brings_out_files(docker_runner: Runner) -> None:
    code = "print('out')\nopen('new.txt', 'w').write(open('old.txt').read() * 2)\n6 * 7"
    outcome = await docker_runner.run(code, LIMITS, [("old.txt", b"ab")])
    assert (outcome.status, outcome.stdout, outcome.result) == ("ok", "out\n", "42")
    assert [(f.path, f.data) for f in outcome.files] == [("new.txt", b"abab")]
    assert outcome.backend == "docker" and (outcome.peak_memory_bytes or 0) > MIB


async def test_a_container_shows_the_packages_of_its_job_read_only(
    docker_runner: Runner, tmp_path: Path
) -> None:
    package = tmp_path / "abc"
    package.mkdir()
    package.joinpath("thing.py").write_text("answer = 42")
    package.joinpath("thing.py").chmod(0o666)
    code = (
        "import thing\ntry: open(thing.__file__, 'a')\nexcept OSError as e: print(e)\nthing.answer"
    )
    outcome = await docker_runner.run(code, LIMITS, packages=(package,))
    assert outcome.result == "42", outcome
    assert "Read-only" in outcome.stdout


async def test_memory_of_a_container_is_bounded(docker_runner: Runner) -> None:
    limits = Limits(timeout=DEADLINE, memory=96 * MIB)
    outcome = await docker_runner.run(
        "x = [bytearray(b'x') * (16 << 20) for _ in range(64)]", limits
    )
    assert outcome.status == "memory_limit", outcome


async def test_processor_time_of_a_container_is_bounded(docker_runner: Runner) -> None:
    outcome = await docker_runner.run("while True: pass", Limits(timeout=300.0, cpu_time=1.0))
    assert outcome.status == "timeout" and (outcome.cpu_ms or 0) >= 1000, outcome


async def test_a_cancelled_call_leaves_no_container(
    docker_runner: Runner, docker_engine: DockerEngine
) -> None:
    heard = anyio.Event()

    async def listen(stream: str, text: str) -> None:
        heard.set()

    async def run() -> None:
        code = "print('here', flush=True)\nimport time\ntime.sleep(600)"
        await docker_runner.run(code, Limits(timeout=300.0), listener=listen)

    before = set(left(docker_engine))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await until(heard.is_set)
        tasks.cancel_scope.cancel()
    assert set(left(docker_engine)) <= before


def test_the_strongest_runtime_of_an_engine_comes_first(
    sandbox_image: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    host, image = sandbox_image
    monkeypatch.setenv("DOCKER_HOST", host)
    named = next(Containers.find([image], "runsc"))
    assert named.isolation["kernel"] == "gVisor"
    usual = next(Containers.find([image]))
    assert json.dumps(dict(usual.isolation)).count("the host's") == 1
