"""Honest programs in a bubblewrap sandbox, and the ends that a call can come to."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import psutil
import pytest

from servers.sandboxing import bubblewrap, cgroup, seccomp, selftest
from servers.sandboxing.bubblewrap import Bubblewrap, Interpreter, interpreters
from servers.sandboxing.outcome import MIB, Limits, SandboxBroken
from servers.sandboxing.selftest import shortfalls, weaknesses
from tests.engine import absent
from tests.servers.harness import until
from tests.servers.sandboxing.runner import Runner

pytestmark = [pytest.mark.anyio, pytest.mark.bwrap]

LIMITS = Limits(timeout=120.0)
BWRAP = shutil.which("bwrap") or ""


@pytest.mark.parametrize(
    ("code", "stdout", "result"),
    [
        ("print('hi')", "hi\n", None),
        ("x = 20\nx * 2 + 2", "", "42"),
        ("", "", None),
        ("None", "", None),
        ("'Grüße 世界 🎉'", "", "'Grüße 世界 🎉'"),
        ("open('a.txt', 'w').write('hello')\nprint(open('a.txt').read())", "hello\n", None),
        (
            "import threading\nt = threading.Thread(target=print, args=('t',))\nt.start()",
            "t\n",
            None,
        ),
        ("import subprocess\nsubprocess.run(['echo', 'sub'])\nNone", "sub\n", None),
        ("len(bytearray(50 << 20)) >> 20", "", "50"),
        ("import socket\na, b = socket.socketpair()\na.send(b'x')\nb.recv(1)", "", "b'x'"),
        ("import asyncio\nasyncio.run(asyncio.sleep(0, 'slept'))", "", "'slept'"),
        ("import multiprocessing\nmultiprocessing.Value('i', 7).value", "", "7"),
        ("import zoneinfo, sqlite3\nstr(zoneinfo.ZoneInfo('Asia/Tokyo'))", "", "'Asia/Tokyo'"),
        ("import dataclasses\n@dataclasses.dataclass\nclass P:\n x: int\nP(1)", "", "P(x=1)"),
        ("__name__", "", "'__main__'"),
        ("open('m.py', 'w').write('v = 5')\nimport m\nm.v", "", "5"),
        ("import tempfile\ntempfile.mkdtemp()[:5]", "", "'/tmp/'"),
        ("import atexit\natexit.register(print, 'bye')\nNone", "bye\n", None),
    ],
)
async def test_an_honest_program_works(
    code: str, stdout: str, result: str | None, bwrap: Runner
) -> None:
    outcome = await bwrap.run(code, LIMITS)
    assert (outcome.status, outcome.exit_code, outcome.stderr) == ("ok", 0, "")
    assert (outcome.stdout, outcome.result) == (stdout, result)


async def test_an_error_shows_the_line_and_not_our_frames(bwrap: Runner) -> None:
    outcome = await bwrap.run("def f():\n    return 1 / 0\nprint('before')\nf()", LIMITS)
    assert (outcome.status, outcome.exit_code, outcome.stdout) == ("error", 1, "before\n")
    assert "return 1 / 0" in outcome.stderr and 'File "<code>", line 4' in outcome.stderr
    assert "inside" not in outcome.stderr and "_run" not in outcome.stderr


async def test_code_that_does_not_compile_is_an_error(bwrap: Runner) -> None:
    outcome = await bwrap.run("a = (\nb", LIMITS)
    assert outcome.status == "error" and "SyntaxError" in outcome.stderr


@pytest.mark.parametrize(("code", "status"), [(0, "ok"), (3, "error"), ("'words'", "error")])
async def test_an_exit_code_is_told(code: object, status: str, bwrap: Runner) -> None:
    outcome = await bwrap.run(f"import sys\nsys.exit({code})", LIMITS)
    assert outcome.status == status
    assert outcome.exit_code == (code if isinstance(code, int) else 1)


async def test_long_output_is_cut_and_says_so(bwrap: Runner) -> None:
    limits = replace(LIMITS, output=1000, result=100)
    outcome = await bwrap.run("print('x' * 5000)\n'y' * 5000", limits)
    assert (outcome.status, outcome.truncated) == ("ok", True)
    assert (len(outcome.stdout), len(outcome.result or "")) == (1000, 100)


async def test_code_longer_than_a_pipe_and_a_command_line_runs(bwrap: Runner) -> None:
    outcome = await bwrap.run(f"x = '{'a' * 900_000}'\nlen(x)", LIMITS)
    assert outcome.result == "900000"


async def test_the_code_is_on_no_command_line(bwrap: Runner) -> None:
    secret = f"secret{os.getpid()}"
    outcome = await bwrap.run(
        f"'{secret}'\nimport glob\n"
        "[p for p in glob.glob('/proc/[0-9]*/cmdline') if b'sec' b'ret' in open(p, 'rb').read()]",
        LIMITS,
    )
    assert outcome.result == "[]"


async def test_cancelling_ends_the_sandbox_at_once(bwrap: Runner) -> None:
    before = set(psutil.Process().children(recursive=True))
    async with anyio.create_task_group() as tasks:
        endless = replace(LIMITS, timeout=300.0)  # longer than we wait for its end
        tasks.start_soon(bwrap.run, "import os, time\nos.fork()\ntime.sleep(600)", endless)
        await until(lambda: len(_since(before)) >= 3)
        tasks.cancel_scope.cancel()
    await until(lambda: not _since(before))


def _since(before: set[psutil.Process]) -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True)) - before


async def test_many_sandboxes_at_once_stay_apart(bwrap: Runner) -> None:
    results: list[str | None] = []

    async def one(n: int) -> None:
        code = f"open('/tmp/n', 'x').write('{n}')\nopen('/tmp/n').read()"
        results.append((await bwrap.run(code, LIMITS)).result)

    async with anyio.create_task_group() as tasks:
        for n in range(6):
            tasks.start_soon(one, n)
    assert sorted(map(str, results)) == [f"'{n}'" for n in range(6)]


async def test_no_control_group_stays_behind(bwrap: Runner) -> None:
    groups = cgroup.find()
    if groups is None:
        pytest.skip("no control groups here")
    await bwrap.run("1", LIMITS)
    for parent in groups.parents.values():
        assert not list(parent.glob(f"mcpcp-sandbox-{os.getpid()}-*"))


async def test_a_sandbox_that_can_not_start_says_why(bwrap: Runner, tmp_path: Path) -> None:
    mounts = ((tmp_path / "nothing", "/opt/python"),)
    broken = Bubblewrap(BWRAP, Interpreter("/opt/python/bin/python3", mounts), None)
    with pytest.raises(SandboxBroken, match="nothing"):
        await broken.make(LIMITS)


async def test_bubblewrap_passes_the_self_test(
    bwrap: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/agent")
    found = await weaknesses(bwrap.backend)
    assert [f for f in found if bwrap.bounded or f != "memory is not limited"] == []


@asynccontextmanager
async def another(groups: cgroup.Groups | None) -> AsyncIterator[Bubblewrap]:
    backend = Bubblewrap(BWRAP, next(interpreters()), groups)
    try:
        yield backend
    finally:
        await backend.close()


async def test_without_a_control_group_each_process_is_bounded(bwrap: Runner) -> None:
    limits = replace(LIMITS, memory=64 * MIB)
    async with another(None) as unbounded:
        outcome = await Runner(unbounded).run("bytearray(b'x') * (100 << 20)", limits)
    assert outcome.status == "memory_limit"
    assert outcome.isolation["memory"] == "per process only"
    assert outcome.isolation["processors"] == "not limited"


def without_processors() -> cgroup.Groups:
    """Groups as a systemd gives them that keeps the processors' controller to itself."""
    groups = cgroup.find()
    if groups is None:
        absent("a control group that may be divided")
    own = {c: folder for c, folder in groups.parents.items() if c != "cpu"}
    return replace(groups, parents=own)


async def test_a_group_without_the_processors_controller_says_so(bwrap: Runner) -> None:
    async with another(without_processors()) as greedy:
        outcome = await Runner(greedy).run("6 * 7", LIMITS)
        assert await shortfalls(greedy) == {}, "it claims nothing"
    assert (outcome.result, outcome.isolation["processors"]) == ("42", "not limited")
    assert outcome.isolation["memory"].startswith("cgroup v")


class Boaster(Bubblewrap):
    """Claims a quota whatever it has."""

    @property
    def isolation(self) -> dict[str, str]:
        return {**super().isolation, "processors": "quota"}


async def test_the_self_test_sees_that_processors_are_not_limited(
    bwrap: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    # so little that every machine has more to give, however busy it is
    monkeypatch.setattr(selftest, "_CPUS", 0.001)
    backend = Boaster(BWRAP, next(interpreters()), without_processors())
    try:
        while not await shortfalls(backend):  # a busy machine may have nothing to give
            pass
    finally:
        await backend.close()


async def test_a_quota_is_seen_to_hold(bwrap: Runner) -> None:
    if bwrap.backend.isolation["processors"] != "quota":
        absent("a control group with the processors' controller")
    outcome = await bwrap.run("1", replace(LIMITS, cpus=0.5))
    assert outcome.isolation["processors"] == "quota"
    assert await shortfalls(bwrap.backend) == {}, "whatever else the machine does"


async def test_without_a_control_group_processor_time_is_still_bounded(bwrap: Runner) -> None:
    spin = "import os\nfor _ in range(3):\n if os.fork() == 0:\n  while True: pass\nos.wait()"
    async with another(None) as unbounded:
        # the clock on the wall must not be quicker, however busy the processors are
        limits = replace(LIMITS, timeout=300.0, cpu_time=1.0)
        outcome = await Runner(unbounded).run(spin, limits)
    assert outcome.status == "timeout" and (outcome.cpu_ms or 0) >= 1000, outcome


async def test_the_self_test_sees_a_layer_that_is_missing(
    bwrap: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)  # a filter that allows everything
    monkeypatch.setattr(seccomp, "bpf", lambda machine: nothing)
    async with another(cgroup.find()) as unfiltered:
        found = await weaknesses(unfiltered)
    assert "virtual machine sockets can be opened" in found, found
    monkeypatch.undo()
    monkeypatch.setattr(
        bubblewrap, "mounts", lambda limits: {"/work": "", "/tmp": "", "/dev/shm": ""}
    )
    async with another(cgroup.find()) as roomy:
        found = await weaknesses(roomy)
    assert {"disk is not limited", "the number of files is not limited"} <= set(found)
