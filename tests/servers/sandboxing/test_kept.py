"""Containers in which one sandbox follows the other: none finds anything of the one before."""

from __future__ import annotations

import json
import os
from ast import literal_eval
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import psutil
import pytest
from docker import DockerClient
from docker.errors import NotFound
from hypothesis import given
from hypothesis import strategies as st

from servers.docker_policy import ownership
from servers.docker_policy.engine import Engine
from servers.docker_policy.hardening import Envelope
from servers.sandboxing import engines, kept, seccomp
from servers.sandboxing.backend import which
from servers.sandboxing.call import Call
from servers.sandboxing.hosted import Hosted
from servers.sandboxing.inside import frames
from servers.sandboxing.kept import Tenancy
from servers.sandboxing.outcome import MIB, Limits, Outcome, SandboxBroken
from servers.sandboxing.sandbox import Sandbox
from servers.sandboxing.selftest import weaknesses
from servers.sandboxing.settings import Settings
from tests.engine import DockerEngine
from tests.servers.harness import DEADLINE, ROOT, connected, running, until
from tests.servers.sandboxing.runner import Runner, in_mid_call

pytestmark = [pytest.mark.anyio, pytest.mark.docker, pytest.mark.timeout(600)]

LIMITS = Limits(timeout=DEADLINE, memory=96 * MIB, disk=16 * MIB, scratch=4 * MIB)
PATIENCE = 500.0
"""Seconds for code that runs until it is ended: more than any test waits for that."""
SURVIVOR = f"mcpcp{os.getpid()}"

TOOLS = f"""
import ctypes, errno, mmap, os, resource, signal, socket, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(15, {SURVIVOR.encode()!r})
def attempt(do, *arguments):
    try: return do(*arguments)
    except (OSError, ValueError, OverflowError): pass
"""

# Each tries to outlive its call, or to spoil the next one.
ATTACKS = {
    "nothing": "",
    "lingers": """
told, tell = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in range(1, 65): attempt(signal.signal, number, signal.SIG_IGN)
        os.write(tell, b"x")
        time.sleep(600)
    os._exit(0)
os.read(told, 1)
""",
    "holds its streams, and writes on": """
if os.fork() == 0:
    while True:
        os.write(1, b"late")
        time.sleep(0.01)
time.sleep(0.1)
""",
    "ends without a word": "os.kill(os.getpid(), signal.SIGKILL)",
    "signals all that there may be": """
for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGKILL):
    for pid in (*range(1, 200), -os.getppid()):
        if pid != os.getpid(): attempt(os.kill, pid, number)
libc.kill(-1, 9)
""",
    "traces and writes into all that there may be": """
for pid in (*range(1, 200), "self"):
    for name in ("mem", "oom_score_adj", "timerslack_ns", "comm", "uid_map", "setgroups"):
        if pid != "self" and pid != os.getpid():
            descriptor = attempt(os.open, f"/proc/{pid}/{name}", os.O_WRONLY)
            if descriptor: attempt(os.write, descriptor, b"1000")
    if pid != "self":
        libc.ptrace(16, pid, 0, 0)
        attempt(resource.prlimit, pid, resource.RLIMIT_NOFILE, (1, 1))
        attempt(resource.prlimit, pid, resource.RLIMIT_AS, (1, 1))
""",
    "is nice to all of its user": """
attempt(os.setpriority, os.PRIO_USER, 65534, 19)
libc.syscall(251, 3, 65534, 3 << 13)
""",
    "fills all file systems": """
open("work", "wb"), open("/tmp/temporary", "wb"), open("/dev/shm/shared", "wb")
for folder in (".", "/tmp", "/dev/shm", "/dev/mqueue"):
    attempt(lambda: open(folder + "/filled", "wb").write(bytes(1 << 26)))
""",
    "leaves a mark wherever it may": """
for folder, folders, _ in os.walk("/"):
    if folder.startswith(("/proc/", "/sys/")): folders.clear()
    attempt(lambda: open(folder + "/mark", "w").close())
libc.shmget(4711, 4096, 0o1666)
libc.semget(4711, 1, 0o1666)
libc.msgget(4711, 0o1666)
""",
    "forks until it can't": """
attempt(lambda: [os.fork() or time.sleep(600) for _ in range(999)])
""",
    "forks for ever": """
for number in range(1, 65): attempt(signal.signal, number, signal.SIG_IGN)
end = time.monotonic() + 0.5
while time.monotonic() < end: attempt(os.fork)
""",
    "uses up memory": "kept = [bytearray(b'x') * (16 << 20) for _ in range(64)]",
    "uses up memory that is nobody's, and is not the first to go": """
open("/proc/self/oom_score_adj", "w").write("0")
kept = [os.memfd_create("x") for _ in range(64)]
for descriptor in kept:
    for _ in range(8): os.write(descriptor, bytes(1 << 20))
""",
    "floods": "while True: print('x' * 65535)",
    "opens all it may": """
kept = []
attempt(lambda: [kept.append(os.open("/", os.O_RDONLY)) for _ in range(999)])
""",
}

LOOK = """
found = {name: value for name, value in (
    ("processes", [pid for pid in os.listdir("/proc") if pid.isdigit() and int(pid) > 2]),
    ("descriptors", [fd for fd in range(3, 64) if attempt(os.fstat, fd)]),
    ("niceness", os.getpriority(os.PRIO_PROCESS, 0) or os.getpriority(os.PRIO_PROCESS, 1)),
    ("shared memory", libc.shmget(4711, 0, 0) >= 0),
    ("semaphores", libc.semget(4711, 0, 0) >= 0),
    ("messages", libc.msgget(4711, 0) >= 0),
    ("limits", resource.getrlimit(resource.RLIMIT_AS)[0] < 1 << 20),
) if value}
for folder, folders, names in os.walk("/"):
    if folder.startswith(("/proc/", "/sys/")): folders.clear()
    for name in names:
        if name in ("mark", "filled", "work", "temporary", "shared"):
            found[os.path.join(folder, name)] = "left"
open("/tmp/x", "wb").write(bytes(1 << 20))
bytearray(b"x") * (50 << 20)
found
"""


def containers() -> set[str]:
    """Those that this process made, in the engine of DOCKER_HOST."""
    engine = Engine()
    try:
        label = f"{ownership.MAKER}={ownership.maker()}"
        found = engine.client().api.containers(all=True, filters={"label": label})
        return {str(container["Id"]) for container in found}
    finally:
        engine.close()


async def made() -> set[str]:
    return await anyio.to_thread.run_sync(containers)


@pytest.fixture(autouse=True)
def in_the_engine(sandbox_image: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", sandbox_image[0])


def names() -> list[str]:
    return [process.info["name"] for process in psutil.process_iter(["name"])]


@pytest.mark.parametrize("attack", ATTACKS)
async def test_the_next_call_finds_nothing_of_one_that(attack: str, kept: Runner) -> None:
    limits = replace(LIMITS, processes=32, flood=MIB)
    await kept.run(TOOLS + ATTACKS[attack], limits)
    await until(lambda: SURVIVOR not in names())
    for _ in range(2):
        outcome = await kept.run(TOOLS + LOOK, limits)
        assert (outcome.status, outcome.stdout, outcome.stderr) == ("ok", "", ""), outcome
        assert literal_eval(outcome.result or "None") == {}


async def test_the_marks_are_found_where_nothing_comes_between(kept: Runner) -> None:
    """Else the test above would prove nothing."""
    code = TOOLS + ATTACKS["fills all file systems"] + ATTACKS["leaves a mark wherever it may"]
    outcome = await kept.run(code + "os.unlink('/tmp/filled')\n" + LOOK, LIMITS)
    found = literal_eval(outcome.result or "None")
    assert found["shared memory"] and found["semaphores"] and found["messages"], found
    assert {"/work/mark", "/dev/shm/mark", "/dev/mqueue/mark", "/work/filled"} <= found.keys()


async def test_calls_one_after_the_other_share_a_container(kept: Runner) -> None:
    await kept.run("1", LIMITS)
    before = await made()
    for _ in range(5):
        outcome = await kept.run("open('x', 'x')\n6 * 7", LIMITS)
        assert (outcome.result, outcome.backend) == ("42", "docker")
        assert outcome.isolation["container"] == "kept, for one call at a time"
    assert await made() == before


async def test_a_call_that_is_cancelled_leaves_its_container_to_the_next(kept: Runner) -> None:
    await kept.run("1", LIMITS)
    before = await made()
    heard = anyio.Event()

    async def listen(stream: str, text: str) -> None:
        heard.set()

    async def run() -> None:
        code = TOOLS + "print('here', flush=True)\nos.fork()\ntime.sleep(600)"
        await kept.run(code, replace(LIMITS, timeout=PATIENCE), listener=listen)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await until(heard.is_set)
        tasks.cancel_scope.cancel()
    assert SURVIVOR not in names()  # the call has not returned before
    assert (await kept.run("6 * 7", LIMITS)).result == "42"
    assert await made() == before


async def test_a_call_that_is_cancelled_while_its_request_is_sent(kept: Runner) -> None:
    big = [(f"f{n}", os.urandom(2 * MIB)) for n in range(6)]
    for delay in (0.0, 0.001, 0.01, 0.05):
        with anyio.move_on_after(delay):
            await kept.run("1", LIMITS, big)
        outcome = await kept.run("import os\nos.listdir()", LIMITS)
        assert outcome.result == "[]", outcome


async def test_figures_are_of_the_call_and_not_of_the_container(kept: Runner) -> None:
    greedy = "import time\nx = bytearray(b'x') * (60 << 20)\nwhile time.process_time() < 2: pass"
    first = await kept.run(greedy, LIMITS)
    assert (first.cpu_ms or 0) >= 1900 and (first.peak_memory_bytes or 0) > 60 * MIB, first
    small = await kept.run("x = bytearray(b'x') * (20 << 20)", LIMITS)
    assert 15 * MIB < (small.peak_memory_bytes or 0) < 40 * MIB, small
    assert (small.cpu_ms or 0) < 1500, small


async def test_memory_that_ran_out_is_not_held_against_later_calls(kept: Runner) -> None:
    bomb = await kept.run(ATTACKS["uses up memory"], LIMITS)
    assert bomb.status == "memory_limit", bomb
    later = await kept.run("import sys\nsys.exit(3)", LIMITS)
    assert (later.status, later.exit_code) == ("error", 3)


FILL = """
libc.shmat.restype = ctypes.c_void_p
for number in range(4):
    address = libc.shmat(libc.shmget(100 + number, 16 << 20, 0o1666), None, 0)
    ctypes.memset(address, 1, 16 << 20)
open("x", "wb").write(bytes(12 << 20))
"""
IN_USE = """
for path in ("memory.stat", "memory/memory.stat"):
    if os.path.exists("/sys/fs/cgroup/" + path):
        statistics = dict(line.split()[:2] for line in open("/sys/fs/cgroup/" + path))
int(statistics["shmem"])
"""


async def test_memory_of_a_call_is_free_before_the_next_begins(kept: Runner) -> None:
    for _ in range(6):
        outcome = await kept.run(TOOLS + FILL + IN_USE, replace(LIMITS, memory=192 * MIB))
        assert int(outcome.result or 0) > 64 * MIB, outcome
        outcome = await kept.run(TOOLS + IN_USE, replace(LIMITS, memory=192 * MIB))
        assert int(outcome.result or -1) < 2 * MIB, outcome


async def test_it_passes_the_self_test(kept: Runner) -> None:
    assert await weaknesses(kept.backend) == []


# -- what is done to it from outside --------------------------------------------------------------


@asynccontextmanager
async def serving(folder: Path, image: str, **other: object) -> AsyncIterator[Sandbox]:
    """A sandbox of containers that are kept; at the end none of them is there."""
    before = await made()
    settings = Settings(
        backend="docker", images=(image,), imports=(), sessions=folder, patience=PATIENCE
    )
    sandbox = Sandbox(replace(settings, **other))  # type: ignore[arg-type]
    async with sandbox.ready():
        first = await sandbox.run(Call("1 + 1"))
        assert (first.result, first.backend) == ("2", "docker"), first
        yield sandbox
    assert await made() <= before


def inside(container: str) -> dict[str, list[psutil.Process]]:
    """The processes of a container by what they are; none where it is being made or removed."""
    found: dict[str, list[psutil.Process]] = {"porter": [], "maker": [], "sandbox": []}
    engine = Engine()
    try:
        state = engine.client().api.inspect_container(container)["State"]
        if state["Pid"]:
            porter = psutil.Process(state["Pid"])
            children = porter.children()
            found = {"porter": [porter], "maker": children[:1], "sandbox": children[1:]}
    except (NotFound, psutil.NoSuchProcess):
        pass
    finally:
        engine.close()
    return found


def kill_each(whose: str, containers: set[str]) -> list[psutil.Process]:
    """Those that end with them: a sandbox ends alone, all end with the maker or the porter."""
    ending: list[psutil.Process] = []
    for container in containers:
        found = inside(container)
        for process in found[whose]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        if found[whose]:
            family = [process for processes in found.values() for process in processes]
            ending += found["sandbox"] if whose == "sandbox" else family
    return ending


def kill_until_dead(whose: str, containers: set[str]) -> None:
    """A call that comes before the last of them has ended may be killed, too."""
    assert psutil.wait_procs(kill_each(whose, containers), DEADLINE)[1] == []


async def ran_until(sandbox: Sandbox, do: Callable[[], object]) -> Outcome:
    """What becomes of code that runs while that is done."""
    async with in_mid_call(sandbox) as outcomes:
        await anyio.to_thread.run_sync(do)
    return outcomes[0]


async def test_its_processes_are_killed_while_code_runs(
    sandbox_image: tuple[str, str], tmp_path: Path
) -> None:
    def kill_now(whose: str) -> None:
        kill_until_dead(whose, containers() - before)

    before = await made()
    async with serving(tmp_path, sandbox_image[1]) as sandbox:
        for whose in ("sandbox", "maker", "porter"):
            outcome = await ran_until(sandbox, partial(kill_now, whose))
            assert outcome.status == "killed", (whose, outcome)
            assert (await sandbox.run(Call("6 * 7"))).result == "42", whose


async def test_its_processes_are_killed_while_they_wait(
    sandbox_image: tuple[str, str], tmp_path: Path
) -> None:
    before = await made()
    async with serving(tmp_path, sandbox_image[1]) as sandbox:
        pool = sandbox._pool
        assert pool is not None
        for whose in ("sandbox", "maker", "porter"):
            await until(lambda: pool.ready == 1)
            await anyio.to_thread.run_sync(kill_until_dead, whose, await made() - before)
            assert (await sandbox.run(Call("6 * 7"))).result == "42", whose


async def test_a_container_that_stands_still_is_given_up(
    sandbox_image: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "_CLEAR_SECONDS", 1.0)
    before = await made()

    def suspend() -> None:
        for container in containers() - before:
            for processes in inside(container).values():
                for process in processes:
                    with suppress(psutil.NoSuchProcess):
                        process.suspend()

    async with serving(tmp_path, sandbox_image[1], warm=0) as sandbox:
        began = anyio.Event()

        async def heard(stream: str, text: str) -> None:
            began.set()

        async with anyio.create_task_group() as tasks:
            code = "print('here', flush=True)\nimport time\ntime.sleep(600)"
            tasks.start_soon(sandbox.run, Call(code, timeout=300.0, listener=heard))
            await until(began.is_set)
            await anyio.to_thread.run_sync(suspend)
            tasks.cancel_scope.cancel()
        assert (await sandbox.run(Call("6 * 7"))).result == "42"


async def test_200_calls_at_16_in_flight(sandbox_image: tuple[str, str], tmp_path: Path) -> None:
    results: list[Outcome] = []
    turns = anyio.CapacityLimiter(16)
    before = await made()

    async def one(n: int, sandbox: Sandbox) -> None:
        async with turns:
            results.append(await sandbox.run(Call(f"open('x', 'x').write('{n}')\n{n}")))

    async with serving(tmp_path, sandbox_image[1], at_once=4) as sandbox:
        async with anyio.create_task_group() as tasks:
            for n in range(200):
                tasks.start_soon(one, n, sandbox)
        assert len(await made() - before) <= 4 + 1  # and one that waits
    assert {outcome.status for outcome in results} == {"ok"}
    assert sorted(int(outcome.result or "") for outcome in results) == list(range(200))


async def test_containers_that_nobody_needs_go(
    sandbox_image: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await made()
    async with serving(tmp_path, sandbox_image[1], at_once=3) as sandbox:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(sandbox.run, Call("import time\ntime.sleep(1)"))
        assert len(await made() - before) >= 2
        monkeypatch.setattr(kept, "_IDLE_SECONDS", 0.0)
        with anyio.fail_after(DEADLINE):
            while len(await made() - before) > 1:  # noqa: ASYNC110
                await anyio.sleep(0.1)
        assert (await sandbox.run(Call("6 * 7"))).result == "42"


async def test_a_server_that_is_killed_takes_its_containers_along(
    sandbox_image: tuple[str, str], tmp_path: Path
) -> None:
    host, image = sandbox_image
    env = {
        "DOCKER_HOST": host,
        "MCPCP_DATA_DIR": str(tmp_path),
        "SANDBOX_BACKEND": "docker",
        "SANDBOX_IMAGE": image,
        "SANDBOX_IMPORTS": "",
    }
    with running(ROOT / "servers" / "python_code.py", env=env) as script:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call_in_vain, script.url)
            await until(lambda: SURVIVOR in names())
            script.kill()
    await until(lambda: SURVIVOR not in names())
    pid = script.process.pid
    with DockerEngine(host).client() as client:
        await until(lambda: not containers_of(client, pid, all=False))
        assert containers_of(client, pid, all=True)
        ownership.sweep(client)  # as the next server does that starts
        assert not containers_of(client, pid, all=True)


async def call_in_vain(url: str) -> None:
    """The server is killed before it answers."""
    with suppress(Exception):
        async with connected(url, "http", "auto") as client:
            code = TOOLS + "time.sleep(600)"
            await client.call_tool("run_python_code", {"code": code, "timeout": 290.0})


def containers_of(client: DockerClient, pid: int, *, all: bool) -> list[str]:
    found = client.api.containers(all=all, filters={"label": ownership.MAKER})
    return [c["Id"] for c in found if f"/{pid}/" in c["Labels"][ownership.MAKER]]


# -- what its porter says -------------------------------------------------------------------------


WORDS = st.one_of(
    st.binary(min_size=1, max_size=40).map(lambda data: (frames.THROUGH, data)),
    st.just((frames.NEXT, b"")),
    st.booleans().map(lambda b: (frames.ENDED, json.dumps({"out_of_memory": b}).encode())),
)


@given(words=st.lists(WORDS), sizes=st.lists(st.integers(1, 30)))
def test_what_one_sandbox_said_is_never_heard_from_the_next(
    words: list[tuple[bytes, bytes]], sizes: list[int]
) -> None:
    engine = Engine()
    tenancy = Tenancy(Hosted(engine, "none", set()), (Envelope(), {}))
    said = b"".join(frames.encode(kind, payload) for kind, payload in words)
    for size in sizes:
        piece, said = said[:size], said[size:]
        if piece:
            tenancy.hear(piece)
    if said:
        tenancy.hear(said)
    last = max((n for n, (kind, _) in enumerate(words) if kind == frames.NEXT), default=-1)
    now = words[last + 1 :]
    assert b"".join(tenancy.said) == b"".join(p for k, p in now if k == frames.THROUGH)
    assert tenancy.has_ended == any(kind == frames.ENDED for kind, _ in now)
    engine.close()


@given(noise=st.binary(min_size=1))
def test_a_porter_that_talks_nonsense_is_let_go(noise: bytes) -> None:
    engine = Engine()
    tenancy = Tenancy(Hosted(engine, "none", set()), (Envelope(), {}))
    tenancy.hear(b"?" + noise)
    tenancy.hear(frames.encode(frames.ENDED, noise))
    assert tenancy.has_ended or len(noise) < 4
    engine.close()


# -- where none can be kept -----------------------------------------------------------------------


async def test_an_engine_that_lets_nobody_mount_gets_a_container_for_each_call(
    sandbox_image: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seccomp, "MAKES_SANDBOXES", frozenset({"unshare"}))
    async with serving(tmp_path, sandbox_image[1]) as sandbox:
        outcome = await sandbox.run(Call("6 * 7"))
        assert outcome.isolation["container"] == "one for each call"
        first, second = await anyio.to_thread.run_sync(
            lambda: list(engines.find([sandbox_image[1]]))
        )
        assert "mount proc at /proc" in " ".join(await weaknesses(first))
        assert which(first) == "docker (kept, for one call at a time)"
        assert which(second) == "docker (one for each call)"
        await first.close()


async def test_an_engine_that_does_not_see_the_packages_runs_code_without(
    sandbox_image: tuple[str, str], tmp_path: Path
) -> None:
    away = tmp_path / "nowhere"
    backend = next(engines.find([sandbox_image[1]], packages=away))
    runner = Runner(backend)
    try:
        assert backend.late_packages
        assert (await runner.run("6 * 7", LIMITS)).result == "42"
        assert not backend.late_packages
        with pytest.raises(SandboxBroken, match="share it with the engine"):
            await runner.run("1", LIMITS, packages=(away / "one",))
    finally:
        await backend.close()


async def test_a_package_that_the_engine_does_not_see_is_told(
    sandbox_image: tuple[str, str], tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)
    backend = next(engines.find([sandbox_image[1]], packages=tmp_path))
    try:
        with pytest.raises(SandboxBroken, match="No such file"):
            await Runner(backend).run("1", LIMITS, packages=(tmp_path / "one",))
        assert (await Runner(backend).run("6 * 7", LIMITS)).result == "42"
    finally:
        await backend.close()
