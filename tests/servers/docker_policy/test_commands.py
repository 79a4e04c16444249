"""Commands of agents against a real Docker engine."""

from __future__ import annotations

import gc
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from servers.docker_policy import making, ownership
from servers.docker_policy.answers import Settings
from servers.docker_policy.commands import DockerCommands
from servers.docker_policy.engine import Engine
from servers.docker_policy.hardening import USER, Envelope
from servers.docker_policy.images import Allowlist
from tests.engine import BARE_IMAGE, IMAGE, VOLUME_IMAGE, DockerEngine, no_engine

pytestmark = [pytest.mark.anyio, pytest.mark.docker]

ALLOWED = Allowlist((IMAGE, VOLUME_IMAGE, "absent"))
DEADLINE = 20.0
SETTINGS = Settings(allowlist=ALLOWED, envelope=Envelope(memory=64 << 20), seconds=DEADLINE)


@pytest.fixture
def engine(docker_engine: DockerEngine, monkeypatch: pytest.MonkeyPatch) -> DockerEngine:
    monkeypatch.setenv("DOCKER_HOST", docker_engine.host)
    return docker_engine


@asynccontextmanager
async def serving(settings: Settings = SETTINGS) -> AsyncIterator[DockerCommands]:
    commands = DockerCommands(Engine(), settings)
    async with commands.serving():
        yield commands


def inspected(engine: DockerEngine, container: str) -> dict[str, Any]:
    with engine.client() as client:
        found: dict[str, Any] = client.api.inspect_container(container)
        return found


def exists(engine: DockerEngine, container: str) -> bool:
    with engine.client() as client:
        return bool(client.api.containers(all=True, filters={"id": container}))


def until(condition: Callable[[], bool]) -> None:
    """The engine says nothing of its own accord here: ask until it is so."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


async def until_answered(docker: DockerCommands, line: str, text: str) -> None:
    with anyio.fail_after(DEADLINE):
        while text not in (await docker.run(line, "a")).stdout:  # noqa: ASYNC110
            await anyio.sleep(0.02)


async def test_run_gives_output_and_exit_code(engine: DockerEngine) -> None:
    async with serving() as docker:
        answer = await docker.run(
            f"docker run --rm -e WORD=hello {IMAGE} sh -c 'echo $WORD; echo no >&2; exit 3'", "a"
        )
    assert (answer.status, answer.exit_code) == ("error", 3)
    assert (answer.stdout, answer.stderr) == ("hello\n", "no\n")
    assert answer.container is None


async def test_a_container_is_hardened_in_fact(engine: DockerEngine) -> None:
    probe = (
        "import os, socket; status = open('/proc/self/status').read(); "
        "print(os.getuid(), 'CapEff:\\t0000000000000000' in status, 'NoNewPrivs:\\t1' in status, "
        "'Seccomp:\\t2' in status, os.listdir('/sys/class/net'), os.path.exists('/dev/sda'))\n"
        "for attempt in (lambda: open('/probe', 'w'), lambda: socket.socket(40, 1)):\n"
        "    try: attempt(); print('worked')\n"
        "    except OSError as e: print(e.errno)\n"
    )
    async with serving() as docker:
        program = shlex.quote(f"exec({probe!r})")
        answer = await docker.run(f"run --rm {IMAGE} python3 -c {program}", "a")
    assert answer.stderr == ""
    assert answer.stdout == "65534 True True True ['lo'] False\n30\n97\n"


async def test_a_detached_container_is_seen_stopped_and_removed_by_its_agent(
    engine: DockerEngine,
) -> None:
    async with serving() as docker:
        made = await docker.run(f"run -d --name web {IMAGE} sh -c 'echo up; sleep 600'", "a")
        assert made.status == "ok" and made.container is not None
        listed = await docker.run("ps", "a")
        assert "web" in listed.stdout and IMAGE in listed.stdout
        until(lambda: "running" in json.dumps(inspected(engine, made.container or "")["State"]))
        await until_answered(docker, "logs web", "up\n")
        refused = await docker.run("rm web", "a")
        assert refused.status == "error" and "running" in refused.stderr
        assert (await docker.run("stop -t 5 web", "a")).stdout == "web\n"
        assert "web" not in (await docker.run("ps", "a")).stdout
        assert "web" in (await docker.run("ps -a", "a")).stdout
        assert (await docker.run("rm web", "a")).status == "ok"
    assert not exists(engine, made.container)


async def test_another_agents_container_answers_like_an_unknown_one(engine: DockerEngine) -> None:
    async with serving() as docker:
        made = await docker.run(f"run -d --name web {IMAGE} sleep 600", "a")
        assert made.container is not None
        for reference in ("web", made.container, made.container[:12]):
            for command in ("logs", "inspect", "stop", "rm -f"):
                theirs = await docker.run(f"{command} {reference}", "b")
                unknown = await docker.run(f"{command} nothing", "b")
                assert theirs.status == "error"
                assert theirs.stderr.replace(reference, "nothing") == unknown.stderr
        assert "web" not in (await docker.run("ps -a", "b")).stdout
        same = await docker.run(f"run -d --name web {IMAGE} sleep 600", "b")
        assert same.status == "ok"
        assert '"Containers": 1' in (await docker.run("info --format json", "b")).stdout
        assert inspected(engine, made.container)["State"]["Running"] is True


async def test_inspect_masks_secrets_and_hides_the_host(engine: DockerEngine) -> None:
    async with serving() as docker:
        await docker.run(f"run -d --name x -e API_KEY=hidden1 -e COLOR=blue {IMAGE} sleep 600", "a")
        answer = await docker.run("inspect x", "a")
    (shown,) = json.loads(answer.stdout)
    assert "hidden1" not in answer.stdout and "/var/lib" not in answer.stdout
    assert {"API_KEY=********", "COLOR=blue"} <= set(shown["Config"]["Env"])
    assert shown["Config"]["Command"] == ["sleep", "600"]
    assert shown["Config"]["User"] == USER


async def test_an_image_that_is_not_allowed_or_not_there_is_refused(engine: DockerEngine) -> None:
    async with serving() as docker:
        denied = await docker.run("run evil/image", "a")
        missing = await docker.run("run absent", "a")
        with engine.client() as client:
            identity = client.images.get(IMAGE).id or ""
        by_id = await docker.run(f"run {identity.partition(':')[2][:12]} true", "a")
    assert denied.status == "refused" and IMAGE in denied.stderr
    assert missing.status == "refused" and "docker pull absent" in missing.stderr
    assert by_id.status == "refused"


async def test_an_image_without_a_shell_for_its_lifeline_is_refused(engine: DockerEngine) -> None:
    async with serving(replace(SETTINGS, allowlist=Allowlist((BARE_IMAGE,)))) as docker:
        answer = await docker.run(f"run {BARE_IMAGE} /program", "a")
        assert answer.status == "refused" and "has no /bin/sh" in answer.stderr


async def test_an_id_that_is_on_the_allowlist_by_accident_is_refused(engine: DockerEngine) -> None:
    async with serving(replace(SETTINGS, allowlist=Allowlist(("*",)))) as docker:
        with engine.client() as client:
            identity = client.images.get(IMAGE).id or ""
        answer = await docker.run(f"run {identity.partition(':')[2][:12]} true", "a")
    assert answer.status == "refused" and "is not on this machine" in answer.stderr


async def test_an_images_volumes_are_bounded_memory(engine: DockerEngine) -> None:
    async with serving() as docker:
        answer = await docker.run(f"run -d --name v {VOLUME_IMAGE} sleep 600", "a")
        assert answer.status == "ok", answer
        mounts = inspected(engine, answer.container or "")
    assert "/data" in mounts["HostConfig"]["Tmpfs"]
    assert not [m for m in mounts["Mounts"] if m["Type"] != "tmpfs"]


async def test_a_container_that_the_engine_made_otherwise_is_removed(
    engine: DockerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = making._config

    def weaker(*arguments: Any) -> dict[str, Any]:
        config = real(*arguments)
        return {**config, "HostConfig": {**config["HostConfig"], "CapDrop": []}}

    monkeypatch.setattr(making, "_config", weaker)
    async with serving() as docker:
        answer = await docker.run(f"run --name weak {IMAGE} true", "a")
        assert answer.status == "refused" and "CapDrop" in answer.stderr
        assert "weak" not in (await docker.run("ps -a", "a")).stdout


async def test_a_container_in_the_foreground_ends_at_its_deadline(engine: DockerEngine) -> None:
    async with serving(replace(SETTINGS, seconds=0.5)) as docker:
        answer = await docker.run(f"run --name slow {IMAGE} sh -c 'echo early; sleep 600'", "a")
        assert (answer.status, answer.stdout) == ("timeout", "early\n")
        assert inspected(engine, answer.container or "")["State"]["Running"] is False


async def test_cancelling_a_call_ends_its_container(engine: DockerEngine) -> None:
    async with serving() as docker:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(docker.run, f"run --rm --name c {IMAGE} sleep 600", "a")
            await until_answered(docker, "ps", "Up ")
            tasks.cancel_scope.cancel()
        assert (await docker.run("ps -aq", "a")).stdout == ""


async def test_cancelling_a_call_while_its_container_starts_leaves_nothing_open(
    engine: DockerEngine,
) -> None:
    async with serving() as docker:
        for _ in range(5):  # "Created" is short: sometimes it is over when we see it
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(docker.run, f"run --rm --name c {IMAGE} sleep 600", "a")
                await until_answered(docker, "ps -aq", "\n")
                tasks.cancel_scope.cancel()
            assert (await docker.run("ps -aq", "a")).stdout == ""
    gc.collect()  # a socket that nobody closed would be a warning, and that an error


async def test_memory_beyond_the_limit_ends_the_container(engine: DockerEngine) -> None:
    async with serving() as docker:
        eat = 'python3 -c "x = bytearray(200 << 20); print(1)"'
        answer = await docker.run(f"run --rm -m 32m {IMAGE} {eat}", "a")
    assert answer.status == "error" and answer.stdout == ""
    assert "more memory" in answer.stderr


async def test_output_is_cut_and_says_so(engine: DockerEngine) -> None:
    async with serving(replace(SETTINGS, output=1000)) as docker:
        answer = await docker.run(
            f"run --rm {IMAGE} sh -c 'yes | head -c 0; echo {'x' * 3000}'", "a"
        )
    assert len(answer.stdout) == 1000 and answer.truncated


async def test_an_agent_has_room_for_so_many_containers(engine: DockerEngine) -> None:
    async with serving(replace(SETTINGS, containers=2)) as docker:
        answers: list[str] = []

        async def one() -> None:
            answers.append((await docker.run(f"run -d {IMAGE} sleep 600", "a")).status)

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(one)
        assert sorted(answers) == ["ok", "ok", "refused", "refused"]
        assert (await docker.run(f"run --rm {IMAGE} true", "b")).status == "ok"


async def test_term_reaches_the_program_on_stop(engine: DockerEngine) -> None:
    async with serving() as docker:
        script = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done"
        await docker.run(f'run -d --name t {IMAGE} sh -c "{script}"', "a")
        await until_answered(docker, "logs t", "up\n")
        await docker.run("stop -t 10 t", "a")
        assert (await docker.run("logs t", "a")).stdout == "up\nbye\n"


async def test_stopping_the_server_removes_its_containers(engine: DockerEngine) -> None:
    async with serving() as docker:
        made = await docker.run(f"run -d {IMAGE} sleep 600", "a")
        left = await docker.run(f"run {IMAGE} true", "a")
    assert made.container and left.container
    assert not exists(engine, made.container) and not exists(engine, left.container)


MAKER = """
import sys, anyio
from servers.docker_policy.answers import Settings
from servers.docker_policy.commands import DockerCommands
from servers.docker_policy.engine import Engine
from servers.docker_policy.images import Allowlist

async def main():
    docker = DockerCommands(Engine(), Settings(allowlist=Allowlist((sys.argv[1],))))
    async with docker.serving():
        answer = await docker.run(f"run -d {sys.argv[1]} sleep 600", "a")
        print(answer.container, flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


async def test_a_sigkilled_servers_containers_end_and_are_swept_at_the_next_start(
    engine: DockerEngine,
) -> None:
    maker = subprocess.Popen(  # noqa: ASYNC220 - reading its one line is what the test waits for
        [sys.executable, "-c", MAKER, IMAGE],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[3],
    )
    assert maker.stdout
    with maker.stdout as out:
        container = out.readline().decode().strip()
        assert inspected(engine, container)["State"]["Running"] is True
        os.kill(maker.pid, signal.SIGKILL)
        maker.wait(DEADLINE)
    until(lambda: not inspected(engine, container)["State"]["Running"])
    async with serving():
        await anyio.to_thread.run_sync(until, lambda: not exists(engine, container))


async def test_the_sweep_leaves_living_servers_alone(engine: DockerEngine) -> None:
    async with serving() as docker:
        made = await docker.run(f"run -d {IMAGE} sleep 600", "a")
        with engine.client() as client:
            assert ownership.sweep(client) == 0
        assert exists(engine, made.container or "")


async def test_version_info_and_images_tell_what_an_agent_may_know(engine: DockerEngine) -> None:
    async with serving() as docker:
        assert "Version: " in (await docker.run("version", "a")).stdout
        assert "NCPU: " in (await docker.run("info", "a")).stdout
        listed = await docker.run("images --format json", "a")
    names = [json.loads(line)["REPOSITORY"] for line in listed.stdout.splitlines()]
    assert sorted(names) == sorted(i.partition(":")[0] for i in (IMAGE, VOLUME_IMAGE))


async def test_without_an_engine_the_answer_says_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with no_engine():
        async with serving() as docker:
            answer = await docker.run("ps", "a")
    assert answer.status == "unavailable" and "DOCKER_HOST" in answer.stderr
