"""Containers in which one sandbox follows the other: none finds anything of the one before."""

from __future__ import annotations

from ast import literal_eval
from dataclasses import replace

import pytest

from servers.sandboxing.outcome import MIB
from tests.servers.harness import until
from tests.servers.sandboxing.kept import LIMITS, TOOLS, survivors
from tests.servers.sandboxing.runner import Runner

pytestmark = [pytest.mark.anyio, pytest.mark.docker, pytest.mark.timeout(600)]

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


@pytest.mark.parametrize("attack", ATTACKS)
async def test_the_next_call_finds_nothing_of_one_that(attack: str, kept: Runner) -> None:
    limits = replace(LIMITS, processes=32, flood=MIB)
    await kept.run(TOOLS + ATTACKS[attack], limits)
    await until(lambda: not survivors())
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
    marks = {f"{folder}/mark" for folder in ("/work", "/dev/shm", "/dev/mqueue")}
    assert marks | {"/work/filled"} <= found.keys()


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
