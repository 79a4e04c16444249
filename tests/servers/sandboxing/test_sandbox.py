"""Choosing a sandbox, refusing without one, waiting for a place."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import anyio
import anyio.lowlevel
import pytest

from servers.sandboxing import sandbox as sandbox_module
from servers.sandboxing.backend import Backend, Cell
from servers.sandboxing.call import Call
from servers.sandboxing.candidates import Candidates, candidates
from servers.sandboxing.conversation import Job
from servers.sandboxing.outcome import Limits, Outcome, SandboxBroken
from servers.sandboxing.sandbox import Sandbox
from servers.sandboxing.sessions import SessionKey
from servers.sandboxing.settings import Settings
from tests.engine import IMAGE, Dockerd, DockerEngine
from tests.servers.harness import DEADLINE, until
from tests.servers.sandboxing.runner import Runner

pytestmark = pytest.mark.anyio


def only(*backends: Backend) -> Candidates:
    def offered(_: Settings) -> Iterator[Backend]:
        yield from backends

    return offered


class Broken:
    """A way to run code that does not come up."""

    name = "broken"
    isolation: ClassVar[dict[str, str]] = {}
    late_packages = True
    most_warm = 4

    async def make(self, limits: Limits, packages: Sequence[Path] = ()) -> Cell:
        raise SandboxBroken("no namespaces here")

    async def absence(self) -> str | None:
        return None

    async def trim(self) -> None:
        pass

    async def close(self) -> None:
        pass


class Open(Broken):
    """A way to run code that holds nothing in: it confesses what a probe would find."""

    name = "open"
    alive = True
    ran: Sequence[str] = ()

    async def make(self, limits: Limits, packages: Sequence[Path] = ()) -> Cell:
        return self

    async def run(self, job: Job) -> Outcome:
        self.ran = [*self.ran, job.code]
        return Outcome("ok", 0, result="['the code is root']")

    async def discard(self) -> None:
        pass


class Boastful(Open):
    """Holds everything in but the processors, of which it claims to."""

    isolation: ClassVar[dict[str, str]] = {"memory": "all", "processors": "quota"}

    async def run(self, job: Job) -> Outcome:
        self.ran = [*self.ran, job.code]
        if job.limits.cpus < 1:
            return Outcome("ok", 0, result="7.9").by(self.name, self.isolation)
        if job.limits.memory < Limits().memory:
            return Outcome("memory_limit", 0).by(self.name, self.isolation)
        return Outcome("ok", 0, result="[]").by(self.name, self.isolation)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(sessions=tmp_path / "sessions")


async def test_without_a_backend_code_is_refused_and_never_run(settings: Settings) -> None:
    weak = Open()
    sandbox = Sandbox(settings, only(Broken(), weak))
    async with sandbox.ready():
        outcome = await sandbox.run(Call("the_users_code()"))
    assert outcome.status == "refused"
    assert "broken: no namespaces here" in outcome.stderr
    assert "open: the code is root" in outcome.stderr
    assert "apt install bubblewrap" in outcome.stderr and "mcpcp sandbox pull" in outcome.stderr
    assert "the_users_code()" not in "".join(weak.ran)


async def test_what_the_self_test_disproved_is_in_no_answer(settings: Settings) -> None:
    sandbox = Sandbox(settings, only(Boastful()))
    async with sandbox.ready():
        with anyio.fail_after(DEADLINE):
            while (outcome := await sandbox.run(Call("1"))).isolation["processors"] == "quota":
                await anyio.lowlevel.checkpoint()
    assert outcome.status == "ok", "only code's share of the machine is at stake"
    assert outcome.isolation == {"memory": "all", "processors": "not limited"}


async def test_before_the_self_test_the_sandbox_says_so(settings: Settings) -> None:
    assert "self-test is still running" in (Sandbox(settings, only()).missing or "")


@pytest.mark.bwrap
async def test_the_first_call_waits_for_the_self_test(bwrap: Runner, settings: Settings) -> None:
    sandbox = Sandbox(settings, only(Broken(), bwrap.backend))
    async with sandbox.ready():
        assert (await sandbox.run(Call("6 * 7"))).result == "42"
        assert sandbox.missing is None


@pytest.mark.bwrap
async def test_calls_wait_for_a_place_and_then_give_up(bwrap: Runner, settings: Settings) -> None:
    sandbox = Sandbox(replace(settings, at_once=1, patience=0.2), only(bwrap.backend))
    runs = anyio.Event()

    async def listen(stream: str, text: str) -> None:
        runs.set()

    endless = Call("import time\nprint('here')\ntime.sleep(600)", 300.0, listener=listen)
    async with sandbox.ready():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sandbox.run, endless)
            await until(runs.is_set)
            refused = await sandbox.run(Call("1"))
            assert refused.status == "refused" and "busy" in refused.stderr
            tasks.cancel_scope.cancel()
        assert (await sandbox.run(Call("1"))).status == "ok"


@pytest.mark.bwrap
async def test_a_call_gets_the_place_of_one_that_ended(bwrap: Runner, settings: Settings) -> None:
    sandbox = Sandbox(replace(settings, at_once=1, patience=300.0), only(bwrap.backend))
    outcomes: list[str | None] = []

    async def one(n: int) -> None:
        outcomes.append((await sandbox.run(Call(str(n)))).result)

    async with sandbox.ready(), anyio.create_task_group() as tasks:
        for n in range(3):
            tasks.start_soon(one, n)
        await until(lambda: len(outcomes) == 3)
    assert sorted(map(str, outcomes)) == ["0", "1", "2"]


async def test_calls_that_ask_for_too_much_are_refused(settings: Settings, tmp_path: Path) -> None:
    sandbox = Sandbox(settings, only())
    for call, why in (
        (Call("#" * (Limits().code + 1)), "longer"),
        (Call("1", timeout=301), "at most 300 seconds"),
        (Call("1", packages=(tmp_path / "none",)), "no package folder"),
        (Call("1", packages=(Path("/etc"),)), "no package folder"),
    ):
        outcome = await sandbox.run(call)
        assert outcome.status == "refused" and why in outcome.stderr


@pytest.mark.bwrap
async def test_a_session_keeps_files_between_calls(bwrap: Runner, settings: Settings) -> None:
    key = SessionKey("agent", "work")
    sandbox = Sandbox(settings, only(bwrap.backend))
    async with sandbox.ready():
        made = await sandbox.run(
            Call(
                "import os\nos.makedirs('d/e')\nopen('d/e/a', 'w').write('1')\nopen('b', 'w')",
                session=key,
            )
        )
        assert [f.path for f in made.files] == ["b", "d/e/a"]
        same = await sandbox.run(Call("open('d/e/a').read()", session=key))
        assert (same.result, same.files, same.deleted) == ("'1'", (), ())
        changed = await sandbox.run(
            Call("open('d/e/a', 'w').write('2')\nimport os\nos.unlink('b')", session=key)
        )
        assert [f.data for f in changed.files] == [b"2"] and changed.deleted == ("b",)
        assert (await sandbox.run(Call("import os\nos.listdir()", session=key))).result == "['d']"
        others = SessionKey("somebody else", "work")
        assert (await sandbox.run(Call("import os\nos.listdir()", session=others))).result == "[]"
        assert (await sandbox.run(Call("import os\nos.listdir()"))).result == "[]"


@pytest.mark.bwrap
async def test_what_a_timeout_left_in_a_session_is_kept(bwrap: Runner, settings: Settings) -> None:
    key = SessionKey("agent", "work")
    code = "open('half', 'w').write('x')\nwhile True: pass"
    # by processor time, of which a busy machine takes nothing away
    sandbox = Sandbox(replace(settings, limits=Limits(cpu_time=2.0)), only(bwrap.backend))
    async with sandbox.ready():
        ended = await sandbox.run(Call(code, timeout=300.0, session=key))
        assert (ended.status, [f.path for f in ended.files]) == ("timeout", ["half"])
        assert (await sandbox.run(Call("open('half').read()", session=key))).result == "'x'"


@pytest.mark.bwrap
async def test_output_is_told_while_the_code_runs(bwrap: Runner, settings: Settings) -> None:
    heard: list[tuple[str, str]] = []
    first = anyio.Event()

    async def listen(stream: str, text: str) -> None:
        heard.append((stream, text))
        first.set()

    sandbox = Sandbox(settings, only(bwrap.backend))
    async with sandbox.ready(), anyio.create_task_group() as tasks:
        code = "import time\nprint('\\x1b[31mstarted')\nwhile True: time.sleep(1)"
        tasks.start_soon(sandbox.run, Call(code, 300.0, listener=listen))
        await until(first.is_set)
        tasks.cancel_scope.cancel()
    assert heard == [("stdout", "started\n")]


async def test_it_looks_again_until_there_is_one_and_then_stays_with_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_module, "_TRY_AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(sandbox_module, "_WATCH_SECONDS", 0.01)
    looks = 0

    class Leaving(Boastful):
        """Goes away once it was chosen."""

        async def absence(self) -> str | None:
            return "it went away"

    def offered(_: Settings) -> Iterator[Backend]:
        nonlocal looks
        looks += 1
        yield Broken() if looks < 3 else Leaving()

    sandbox = Sandbox(settings, offered)
    async with sandbox.ready():
        await until(lambda: sandbox.missing == "it went away")
        assert (await sandbox.run(Call("1"))).backend == "open"
    assert looks == 3, "no other one is taken in its place"


async def test_a_mac_has_sandboxes_by_an_engine_or_none(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    sandbox = Sandbox(settings)
    async with sandbox.ready():
        outcome = await sandbox.run(Call("1"))
    assert outcome.status == "refused" and "mcpcp sandbox pull" in outcome.stderr


@pytest.mark.docker
async def test_docker_is_found_where_it_is_asked_for(
    sandbox_image: tuple[str, str], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, image = sandbox_image
    monkeypatch.setenv("DOCKER_HOST", host)
    sandbox = Sandbox(replace(settings, backend="docker", images=(image,), warm=1))
    async with sandbox.ready():
        outcome = await sandbox.run(Call("'in'"))
    assert (outcome.status, outcome.result, outcome.backend) == ("ok", "'in'", "docker")


@pytest.mark.docker
async def test_a_stronger_runtime_is_used_where_the_engine_has_one(
    own_engine: Dockerd, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # by gVisor's name it is the usual one: what is seen is that it is asked for
    runc = {"path": shutil.which("runc")}
    own_engine.stop()
    (own_engine.folder / "daemon.json").write_text(json.dumps({"runtimes": {"runsc": runc}}))
    own_engine.start()
    monkeypatch.setenv("DOCKER_HOST", own_engine.host)
    wanted = replace(settings, backend="docker", images=(IMAGE,), imports=())
    kernels = [b.isolation["kernel"] for b in candidates(wanted)]
    assert list(dict.fromkeys(kernels)) == ["gVisor", "the host's"]
    first = next(candidates(wanted))
    cell = await first.make(Limits())
    with DockerEngine(own_engine.host).client() as client:
        (container,) = client.containers.list()
        assert container.attrs["HostConfig"]["Runtime"] == "runsc"
    assert (await cell.run(Job("6 * 7", Limits(timeout=DEADLINE)))).result == "42"
    await cell.discard()
    await first.close()


async def test_an_engine_that_is_away_is_no_backend(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    sandbox = Sandbox(replace(settings, backend="docker"))
    async with sandbox.ready():
        outcome = await sandbox.run(Call("1"))
    assert outcome.status == "refused" and "nor a Docker engine" in outcome.stderr
