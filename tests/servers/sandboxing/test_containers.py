"""Sandboxes by a Docker engine that are a container each, where none can be made inside one."""

from __future__ import annotations

from ast import literal_eval
from pathlib import Path

import anyio
import pytest

from servers.docker_policy import hardening, ownership
from servers.docker_policy.engine import Engine
from servers.sandboxing import engines
from servers.sandboxing.hosted import Hosting
from servers.sandboxing.outcome import MIB, Limits
from servers.sandboxing.selftest import weaknesses
from tests.engine import DockerEngine
from tests.servers.harness import DEADLINE, until
from tests.servers.sandboxing.runner import Runner
from tests.servers.sandboxing.test_attacks import (
    FUTILE,
    GREEDY,
    OF_THE_IMAGE,
    TOOLS,
    Planted,
    planted,
)
from tests.servers.sandboxing.test_attacks import LIMITS as ATTACK_LIMITS
from tests.servers.sandboxing.test_honest import PROGRAMS

__all__ = ["planted"]

pytestmark = [pytest.mark.anyio, pytest.mark.docker]

LIMITS = Limits(timeout=DEADLINE)


def left(docker_engine: DockerEngine) -> list[str]:
    """Containers that this process made."""
    label = f"{ownership.MAKER}={ownership.maker()}"
    with docker_engine.client() as client:
        return [c["Id"] for c in client.api.containers(all=True, filters={"label": label})]


async def test_a_container_passes_the_self_test(one_each: Runner) -> None:
    assert await weaknesses(one_each.backend) == []


HONEST = ("numpy", "a pool of processes", "an event loop with a subprocess", "a pseudo-terminal")


@pytest.mark.parametrize("what", HONEST)
async def test_in_a_container_there_is(what: str, one_each: Runner) -> None:
    code, result = PROGRAMS[what]
    outcome = await one_each.run(code, LIMITS)
    assert (outcome.status, outcome.result) == ("ok", result), outcome


async def test_a_container_runs_code_and_brings_out_files(one_each: Runner) -> None:
    code = "print('out')\nopen('new.txt', 'w').write(open('old.txt').read() * 2)\n6 * 7"
    outcome = await one_each.run(code, LIMITS, [("old.txt", b"ab")])
    assert (outcome.status, outcome.stdout, outcome.result) == ("ok", "out\n", "42")
    assert [(f.path, f.data) for f in outcome.files] == [("new.txt", b"abab")]
    assert outcome.backend == "docker" and (outcome.peak_memory_bytes or 0) > MIB


async def test_a_container_shows_the_packages_of_its_job_read_only(
    one_each: Runner, tmp_path: Path
) -> None:
    package = tmp_path / "abc"
    package.mkdir()
    package.joinpath("thing.py").write_text("answer = 42")
    package.joinpath("thing.py").chmod(0o666)
    code = (
        "import thing\ntry: open(thing.__file__, 'a')\nexcept OSError as e: print(e)\nthing.answer"
    )
    outcome = await one_each.run(code, LIMITS, packages=(package,))
    assert outcome.result == "42", outcome
    assert "Read-only" in outcome.stdout


async def test_memory_of_a_container_is_bounded(one_each: Runner) -> None:
    limits = Limits(timeout=DEADLINE, memory=96 * MIB)
    outcome = await one_each.run("x = [bytearray(b'x') * (16 << 20) for _ in range(64)]", limits)
    assert outcome.status == "memory_limit", outcome


async def test_processor_time_of_a_container_is_bounded(one_each: Runner) -> None:
    outcome = await one_each.run("while True: pass", Limits(timeout=300.0, cpu_time=1.0))
    assert outcome.status == "timeout" and (outcome.cpu_ms or 0) >= 1000, outcome


async def test_a_cancelled_call_leaves_no_container(
    one_each: Runner, docker_engine: DockerEngine
) -> None:
    heard = anyio.Event()

    async def listen(stream: str, text: str) -> None:
        heard.set()

    async def run() -> None:
        code = "print('here', flush=True)\nimport time\ntime.sleep(600)"
        await one_each.run(code, Limits(timeout=300.0), listener=listen)

    before = set(left(docker_engine))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await until(heard.is_set)
        tasks.cancel_scope.cancel()
    assert set(left(docker_engine)) <= before


async def test_programs_in_a_container_look_in_vain(one_each: Runner, planted: Planted) -> None:
    """All in one container, each in a process of its own: a container takes a second to make."""
    goals = {goal: code for goal, code in FUTILE.items() if goal not in OTHERWISE}
    code = f"""
goals = {goals!r}
found = {{}}
for goal, code in goals.items():
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(reader)
        os.dup2(writer, 2)
        os.closerange(3, 9)
        exec(code, globals())
        os.write(2, repr(worked).encode())
        os._exit(0)
    os.close(writer)
    found[goal] = open(reader).read()
    os.wait()
found
"""
    outcome = await one_each.run(planted.names + TOOLS + code, ATTACK_LIMITS)
    found = literal_eval(outcome.result or "None")
    assert found.keys() == goals.keys()
    for goal, worked in found.items():
        assert set(literal_eval(worked)) <= set(OF_THE_IMAGE["docker"]), (goal, worked)


OTHERWISE = {
    "system calls newer than the filter",  # an engine's profile can only name those that it knows
    "processes of the host",  # its own have higher numbers
    "marks of an earlier run",
    "all terminals of the machine",  # an engine bounds them for all containers together
}


GREEDY_HERE = (
    *[*GREEDY][:4],
    *("memory in many processes", "memory in datagrams that nobody reads", "inodes"),
)


@pytest.mark.parametrize("what", GREEDY_HERE)
async def test_a_program_in_a_container_can_not_use_up(what: str, one_each: Runner) -> None:
    program, statuses, words = GREEDY[what]
    outcome = await one_each.run(TOOLS + program, ATTACK_LIMITS)
    assert outcome.status in statuses, outcome
    assert words in outcome.stderr


async def test_what_its_program_died_of_is_told_in_a_line(
    sandbox_image: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    host, image = sandbox_image
    monkeypatch.setenv("DOCKER_HOST", host)
    hosting = Hosting(Engine(), image)
    program = "def no_way(): raise OSError(1, 'no way')\nno_way()"
    settings = hardening.host_config(hardening.Envelope(), {})
    hosted = await hosting.start(hosting.config(program, [], settings))
    with anyio.fail_after(DEADLINE):
        while await hosted.link.receive():
            pass
    assert hosted.complaint == "PermissionError: [Errno 1] no way"
    await hosted.discard()
    await hosting.close()


def test_the_strongest_runtime_of_an_engine_comes_first(
    sandbox_image: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    host, image = sandbox_image
    monkeypatch.setenv("DOCKER_HOST", host)
    named = list(engines.find([image], "runsc"))
    assert [backend.isolation["kernel"] for backend in named] == ["gVisor"] * 2
    usual = list(engines.find([image]))
    assert [backend.isolation["kernel"] for backend in usual] == ["the host's"] * 2
    kept, one_each = (backend.isolation["container"] for backend in usual)
    assert (kept, one_each) == ("kept, for one call at a time", "one for each call")
