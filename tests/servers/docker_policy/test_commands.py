"""Commands of agents against a real Docker engine."""

from __future__ import annotations

import gc
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
import requests
from docker import APIClient, DockerClient
from docker.errors import NotFound

from servers.docker_policy import ownership
from servers.docker_policy.answers import Settings
from servers.docker_policy.commands import DockerCommands
from servers.docker_policy.engine import Engine
from servers.docker_policy.grammar import MAX_STOP_SECONDS
from servers.docker_policy.hardening import USER, Envelope
from servers.docker_policy.images import Allowlist
from tests.engine import BARE_IMAGE, IMAGE, VOLUME_IMAGE, Dockerd, DockerEngine, no_engine
from tests.servers.harness import DEADLINE, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.docker]

ALLOWED = Allowlist((IMAGE, VOLUME_IMAGE, "absent"))
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


def runs(engine: DockerEngine, container: str) -> bool:
    """Whether it does; a container of a dead maker may be swept by any worker's server."""
    try:
        return bool(inspected(engine, container)["State"]["Running"])
    except NotFound:
        return False


async def until(condition: Callable[[], bool]) -> None:
    """The engine says nothing of its own accord here: ask until it is so."""
    await anyio.to_thread.run_sync(wait_until, condition)


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
        assert runs(engine, made.container)
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
            for command in (
                *("logs", "inspect", "stats", "top", "port", "stop", "start", "restart -t 1"),
                *("rm", "rm -f", "container inspect", "container stats --no-stream"),
            ):
                theirs = await docker.run(f"{command} {reference}", "b")
                unknown = await docker.run(f"{command} nothing", "b")
                assert theirs.status == "error"
                assert theirs.stderr.replace(reference, "nothing") == unknown.stderr
        for command in ("ps -a", "ps -l", "stats -a", "ps -af name=web"):
            assert "web" not in (await docker.run(command, "b")).stdout
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


@pytest.mark.parametrize(
    "weaker",
    [
        {"CapDrop": []},
        {"CapAdd": ["SYS_ADMIN"]},
        {"PidMode": "host"},
        {"Binds": ["/:/host"]},
        {"ReadonlyRootfs": False},
        {"SecurityOpt": ["no-new-privileges:true", "seccomp=unconfined"]},
        {"MaskedPaths": []},
        {"OomScoreAdj": -500},
        {"PidsLimit": 0},
    ],
    ids=lambda weaker: next(iter(weaker)),
)
async def test_a_container_that_the_engine_made_otherwise_is_removed_before_it_runs(
    engine: DockerEngine, monkeypatch: pytest.MonkeyPatch, weaker: dict[str, Any]
) -> None:
    real = APIClient.create_container_from_config

    def other(api: APIClient, config: dict[str, Any], name: str | None) -> Any:
        host = {**config["HostConfig"], **weaker}
        return real(api, {**config, "HostConfig": host}, name)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(APIClient, "create_container_from_config", other)
    async with serving() as docker:
        answer = await docker.run(f"run --name weak {IMAGE} true", "weakened")
        assert answer.status == "refused" and next(iter(weaker)) in answer.stderr, answer
        assert answer.stdout == ""
        assert (await docker.run("ps -aq", "weakened")).stdout == ""


async def test_a_container_in_the_foreground_ends_at_its_deadline(engine: DockerEngine) -> None:
    # time enough to say something first, also on a machine that stands still for some seconds
    async with serving(replace(SETTINGS, seconds=6.0)) as docker:
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


async def test_a_container_is_started_again_with_what_it_was_run_with(engine: DockerEngine) -> None:
    async with serving() as docker:
        made = await docker.run(f"run -d --name w -m 32m {IMAGE} sh -c 'echo up; sleep 600'", "a")
        before = inspected(engine, made.container or "")
        assert (await docker.run("stop -t 0 w", "a")).stdout == "w\n"
        assert (await docker.run("start w", "a")).stdout == "w\n"
        await until_answered(docker, "logs w", "up\nup\n")
        assert (await docker.run("restart -t 0 w", "a")).stdout == "w\n"
        await until_answered(docker, "logs w", "up\nup\nup\n")
        after = inspected(engine, made.container or "")
        assert after["State"]["Running"] and after["HostConfig"] == before["HostConfig"]
    assert not exists(engine, made.container or "")


async def test_starting_twice_at_once_starts_once(engine: DockerEngine) -> None:
    async with serving() as docker:
        made = await docker.run(f"run -d --name w {IMAGE} sleep 600", "a")
        await docker.run("stop -t 0 w", "a")
        statuses: list[str] = []

        async def start() -> None:
            statuses.append((await docker.run("start w", "a")).status)

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(start)
        assert statuses == ["ok"] * 4
        assert (await docker.run("top w", "a")).status == "ok"  # its lifeline was not let go
        assert inspected(engine, made.container or "")["State"]["Running"]


async def test_a_container_that_goes_when_it_ends_is_not_restarted(engine: DockerEngine) -> None:
    async with serving() as docker:
        made = await docker.run(f"run -d --rm --name w {IMAGE} sleep 600", "a")
        refused = await docker.run("restart -t 0 w", "a")
        assert refused.status == "error" and "--rm" in refused.stderr
        assert inspected(engine, made.container or "")["State"]["Running"]
        assert (await docker.run("stop -t 0 w", "a")).status == "ok"
        await until(lambda: not exists(engine, made.container or ""))


async def test_top_shows_the_program_and_not_what_we_put_around_it(engine: DockerEngine) -> None:
    async with serving() as docker:
        await docker.run(f"run -d --name w {IMAGE} sleep 600", "a")
        for options in ("", "-ef", "aux"):
            shown = (await docker.run(f"top w {options}", "a")).stdout
            assert "sleep 600\n" in shown and "(lifeline)" in shown and "read -r" not in shown
        await docker.run("stop -t 0 w", "a")
        assert (await docker.run("top w", "a")).stderr == "Error: w is not running\n"


async def test_stats_are_of_each_or_of_all_that_run(engine: DockerEngine) -> None:
    async with serving() as docker:
        for name in ("one", "two"):
            await docker.run(f"run -d --name {name} {IMAGE} sleep 600", "a")
        await docker.run("stop -t 0 two", "a")
        shown = {
            line: [json.loads(row)["NAME"] for row in (await rows(docker, line)).splitlines()]
            for line in ("stats", "stats -a", "stats two", "stats one two")
        }
        measured = json.loads(await rows(docker, "stats one"))
    assert shown["stats"] == ["one"] and shown["stats two"] == ["two"]
    assert sorted(shown["stats -a"]) == shown["stats one two"] == ["one", "two"]
    assert int(measured["PIDS"]) >= 2 and "/ 64.00MiB" in measured["MEM USAGE / LIMIT"]


async def rows(docker: DockerCommands, line: str) -> str:
    return (await docker.run(f"{line} --format json", "a")).stdout


async def test_an_image_of_another_digest_than_the_allowed_one_is_refused(
    engine: DockerEngine,
) -> None:
    pinned = f"{IMAGE}@sha256:{'0' * 64}"
    async with serving(replace(SETTINGS, allowlist=Allowlist((pinned,)))) as docker:
        other = await docker.run(f"run --rm {IMAGE} true", "a")
        missing = await docker.run(f"run --rm {pinned} true", "a")
        assert (await docker.run("images -q", "a")).stdout == ""
    assert other.status == missing.status == "refused"
    assert "is not the one that may be run" in other.stderr and pinned in other.stderr
    assert "is not on this machine" in missing.stderr


async def test_term_reaches_the_program_on_stop(engine: DockerEngine) -> None:
    async with serving() as docker:
        script = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done"
        await docker.run(f'run -d --name t {IMAGE} sh -c "{script}"', "a")
        await until_answered(docker, "logs t", "up\n")
        assert (await docker.run(f"stop -t {MAX_STOP_SECONDS} t", "a")).status == "ok"
        await until_answered(docker, "logs t", "up\nbye\n")


async def test_stopping_the_server_removes_its_containers(engine: DockerEngine) -> None:
    async with serving() as docker:
        made = await docker.run(f"run -d {IMAGE} sleep 600", "a")
        left = await docker.run(f"run {IMAGE} true", "a")
    assert made.container and left.container
    # a busy engine may take longer than a server that stops waits for it
    await until(lambda: not exists(engine, str(made.container)))
    await until(lambda: not exists(engine, str(left.container)))


MAKER = """
import sys, anyio
from servers.docker_policy.answers import Settings
from servers.docker_policy.commands import DockerCommands
from servers.docker_policy.engine import Engine
from servers.docker_policy.images import Allowlist

async def main():
    docker = DockerCommands(Engine(), Settings(allowlist=Allowlist((sys.argv[1],))))
    async with docker.serving():
        for line in sys.argv[2:]:
            answer = await docker.run(line, "a")
        print(answer.stdout, end="", flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""

LIVES = {
    "run": [],
    "started again": ["stop -t 0 x", "start x"],
    "restarted": ["restart -t 0 x"],
    "restarted when it had ended": ["stop -t 0 x", "restart x"],
}


@pytest.mark.parametrize("life", LIVES)
async def test_a_sigkilled_servers_containers_end_and_are_swept_at_the_next_start(
    engine: DockerEngine, life: str
) -> None:
    lines = [f"run -d --name x {IMAGE} sleep 600", *LIVES[life]]
    maker = subprocess.Popen(  # noqa: ASYNC220 - reading its one line is what the test waits for
        [sys.executable, "-c", MAKER, IMAGE, *lines, "ps -q --no-trunc"],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[3],
    )
    assert maker.stdout
    with maker.stdout as out:
        made = out.readline().decode().strip()
        os.kill(maker.pid, signal.SIGKILL)
        maker.wait(DEADLINE)
    assert len(made) == 64
    await until(lambda: not runs(engine, made))
    async with serving():
        await until(lambda: not exists(engine, made))


async def test_the_sweep_leaves_living_servers_alone(engine: DockerEngine) -> None:
    async with serving() as docker:
        made = await docker.run(f"run -d {IMAGE} sleep 600", "a")
        with engine.client() as client:
            ownership.sweep(client)  # other workers' dead servers may have left something
        assert exists(engine, made.container or "")


async def test_a_sweep_that_the_engine_had_no_time_for_is_done_later(
    engine: DockerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = ownership.sweep, []

    def sweep(client: DockerClient) -> int:
        asked.append(client)
        if len(asked) == 1:
            raise requests.ReadTimeout
        return real(client)

    monkeypatch.setattr(ownership, "sweep", sweep)
    async with serving():
        await until(lambda: len(asked) == 2)


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
    async with serving() as docker:
        answer = await docker.run("ps", "a")
    assert answer.status == "unavailable" and "DOCKER_HOST" in answer.stderr


async def test_after_the_engine_was_stopped_and_started_the_next_call_works(
    own_engine: Dockerd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", own_engine.host)
    with no_engine():
        async with serving() as docker:
            await stop_and_start(own_engine, docker)
    with DockerEngine(own_engine.host).client() as client:
        assert client.api.containers(all=True) == []


async def stop_and_start(engine: Dockerd, docker: DockerCommands) -> None:
    assert (await docker.run(f"run -d --name web {IMAGE} sleep 600", "a")).status == "ok"
    await anyio.to_thread.run_sync(engine.stop)
    assert (await docker.run("ps -a", "a")).status == "unavailable"
    await anyio.to_thread.run_sync(engine.start)
    assert "web" in (await docker.run("ps -a --filter status=exited", "a")).stdout
    assert (await docker.run("start web", "a")).stdout == "web\n"
    # and when nobody called while it was away
    await anyio.to_thread.run_sync(engine.stop)
    await anyio.to_thread.run_sync(engine.start)
    answer = await docker.run(f"run --rm {IMAGE} echo again", "a")
    assert (answer.status, answer.stdout) == ("ok", "again\n")
    assert (await docker.run("start web", "a")).stdout == "web\n"
