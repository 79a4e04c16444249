"""Programs that a sandbox must contain, each run in a fresh one.

Each tries one thing and leaves what came of it as its last expression: a list of what worked.
Before them, what they look for is planted in the host: a secret in the environment, a listener on
loopback, an abstract socket, a readable file.
"""

from __future__ import annotations

import os
import platform
import socket
import threading
from ast import literal_eval
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import psutil
import pytest

from servers.sandboxing import seccomp
from servers.sandboxing.outcome import MIB, Limits, Outcome
from tests.servers.harness import DEADLINE, until
from tests.servers.sandboxing.runner import Runner

pytestmark = pytest.mark.anyio

LIMITS = Limits(timeout=DEADLINE, memory=128 * MIB, disk=16 * MIB, scratch=4 * MIB, flood=2 * MIB)

# processors number system calls differently: an attack by another one's number proves nothing
MACHINE = seccomp.MACHINES[platform.machine()]
DENIED = seccomp.denied_numbers(MACHINE)
NUMBERS = DENIED | {
    name: getattr(seccomp, name.upper())[MACHINE.column]
    for name in ("clone", "clone3", "socket", "socketpair")
}

TOOLS = (
    f"NUMBERS, DENIED = {NUMBERS}, {list(DENIED)}"
    + """
import ctypes, errno, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
worked = []
def attempt(what, do, *arguments):
    try: do(*arguments)
    except (OSError, ValueError): return
    worked.append(what)
def call(which, *arguments):
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    if libc.syscall(ctypes.c_long(NUMBERS.get(which, which)), *words) < 0:
        raise OSError(ctypes.get_errno(), "syscall")
"""
)


@dataclass(frozen=True)
class Planted:
    """What the host holds that no sandboxed program may find."""

    port: int
    abstract: str
    file: Path

    @property
    def names(self) -> str:
        return f"PORT={self.port}\nABSTRACT={self.abstract!r}\nFILE={str(self.file)!r}\n"


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planted]:
    file = Path("/var/tmp", f"mcpcp-canary-{os.getpid()}")
    file.write_text("canary")
    file.chmod(0o644)
    abstract = f"mcpcp-canary-{os.getpid()}"
    os.environ["CANARY_SECRET"] = "canary"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(f"\0{abstract}")
        unix.listen()
        yield Planted(tcp.getsockname()[1], abstract, file)
    del os.environ["CANARY_SECRET"]
    file.unlink()


async def attack(runner: Runner, planted: Planted, program: str) -> Outcome:
    return await runner.run(planted.names + TOOLS + program, LIMITS)


# What each looks for; none may work.
FUTILE = {
    "secrets in the environment": "worked = [v for v in os.environ.values() if 'canary' in v]",
    "environments of other processes": """
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        if b"CANARY_SECRET" in open(f"/proc/{pid}/environ", "rb").read(): worked.append(pid)
    except OSError: pass
""",
    "files of the host": """
for path in (FILE, "/etc/shadow", "/root", "/home", "/etc/passwd", "/proc/1/root/etc/shadow",
             "/var/lib", "/sys/kernel", "/boot", "/usr/local/etc", "/usr/src", "/run/packages",
             "/oldroot"):
    attempt(path, lambda p: os.listdir(p) if os.path.isdir(p) else open(p).read(1), path)
""",
    "inherited descriptors": """
for fd in range(3, 256):
    attempt((fd,), os.fstat, fd)
""",
    "sockets of container engines": """
for path in ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock"):
    attempt(path, socket.socket(socket.AF_UNIX).connect, path)
""",
    "the internet over TCP": "attempt(1, socket.create_connection, ('1.1.1.1', 443), 2)",
    "cloud metadata": "attempt(1, socket.create_connection, ('169.254.169.254', 80), 2)",
    "a datagram to a name server": """
attempt(1, socket.socket(2, 2).sendto, b"x", ("8.8.8.8", 53))
attempt(6, socket.socket(10, 2).sendto, b"x", ("2001:4860:4860::8888", 53))
""",
    "the host's loopback": "attempt(1, socket.create_connection, ('127.0.0.1', PORT), 2)",
    "the host's abstract sockets": """
attempt(1, socket.socket(socket.AF_UNIX).connect, chr(0) + ABSTRACT)
""",
    "raw and other sockets": """
for what in ((17, 3, 0), (2, 3, 1), (16, 3, 0), (40, 1, 0), (31, 3, 0), (38, 5, 0)):
    attempt(what, socket.socket, *what)
""",
    "a family hidden in the high half of the word": """
attempt(1, call, "socket", 40 + (1 << 32), 1, 0)
""",
    "other sockets, by the pair": """
for family in (16, 17, 38, 40, 44):
    try: call("socketpair", family, 3, 0, ctypes.create_string_buffer(8))
    except OSError as e:
        if e.errno != errno.EAFNOSUPPORT: worked.append((family, e.errno))
""",
    "other protocols": """
for kind, protocol in ((6, 33), (1, 132), (2, 136), (1, 262), (1, 262 + (1 << 32))):
    try: call("socket", 2, kind, protocol)
    except OSError as e:
        if e.errno != errno.EPROTONOSUPPORT: worked.append((protocol, e.errno))
    else: worked.append(protocol)
""",
    "larger buffers of sockets": """
for option in (7, 8):
    plain = socket.socket(2, 2)
    usual = plain.getsockopt(1, option)
    for wish in (usual // 4, usual * 4):
        plain.setsockopt(1, option, wish)
        if plain.getsockopt(1, option) != usual: worked.append((option, wish))
""",
    "huge pages that were set aside for others": """
attempt("memfd", os.memfd_create, "x", 4)
attempt("mmap", lambda: __import__("mmap").mmap(-1, 2 << 20, flags=0x40022))
""",
    "all terminals of the machine": """
held = []
try:
    while True: held.append(os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY))
except OSError: pass
worked = [len(held)] if len(held) > 64 else []
""",
    "the machine's collector of cores": """
worked = [limit for limit in __import__("resource").getrlimit(4) if limit != 1]
""",
    "interfaces other than loopback": """
worked = [line for line in open("/proc/net/dev") if ":" in line and not line.strip().startswith(
    ("lo:", "tunl", "sit", "ip6", "gre", "erspan", "ip_vti"))]
""",
    "writing to the system": """
for folder in ("/", "/etc", "/usr", "/usr/lib", "/usr/bin", "/bin", "/dev", "/var", "/opt", "/proc",
               os.path.dirname(os.__file__), os.path.dirname(sys.executable)):
    attempt(folder, lambda f: open(f + "/mcpcp-probe", "w"), folder)
""",
    "planting code on the way of Python": """
for folder in sys.path:
    if folder and folder != os.getcwd():
        attempt(folder, lambda f: open(f + "/sitecustomize.py", "w"), folder)
""",
    "kernel settings": """
for path in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/kernel/modprobe",
             "/proc/sys/vm/overcommit_memory", "/proc/1/oom_score_adj", "/proc/1/mem", "/dev/mem"):
    attempt(path, os.open, path, os.O_WRONLY)
""",
    "device nodes": """
attempt("block", os.mknod, "disk", 0o60666, os.makedev(254, 0))
attempt("character", os.mknod, "mem", 0o20666, os.makedev(1, 1))
""",
    "tracing": """
attempt("traceme", call, "ptrace", 0, 0, 0, 0)
attempt("attach", call, "ptrace", 16, os.getppid(), 0, 0)
attempt("readv", call, "process_vm_readv", os.getpid(), 0, 0, 0, 0, 0)
attempt("memory of the first process", open, "/proc/1/mem", "rb")
attempt("maps of the first process", lambda: open("/proc/1/maps").read())
""",
    "namespaces": """
for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000, 0x4000000, 0x8000000, 0x2000000, 0x80):
    attempt(("unshare", flag), call, "unshare", flag)
    if flag != 0x80: attempt(("clone", flag), call, "clone", flag | 17, 0, 0, 0, 0)
attempt("clone3", call, "clone3", ctypes.create_string_buffer(88), 88)
attempt("setns", call, "setns", os.open("/proc/self/ns/net", os.O_RDONLY), 0)
""",
    "mounts": """
attempt("mount", call, "mount", b"none", b"/tmp", b"tmpfs", 0, 0)
attempt("umount", call, "umount2", b"/tmp", 2)
attempt("pivot_root", call, "pivot_root", b"/tmp", b"/tmp")
attempt("chroot", os.chroot, "/tmp")
attempt("fsopen", call, "fsopen", b"tmpfs", 0)
attempt("open_tree", call, "open_tree", -100, b"/", 1)
attempt("move_mount", call, "move_mount", -100, b"/", -100, b"/tmp", 0)
""",
    "keyrings": """
attempt("add_key", call, "add_key", b"user", b"mark", b"v", 1, -4)
attempt("keyctl", call, "keyctl", 0, -4, 1)
attempt("request_key", call, "request_key", b"user", b"mark", 0, -4)
""",
    "io_uring": "attempt(1, call, 'io_uring_setup', 4, ctypes.create_string_buffer(256))",
    "bpf, perf, userfaultfd": """
buffer = ctypes.create_string_buffer(128)
attempt("bpf", call, "bpf", 0, buffer, 72)
attempt("perf", call, "perf_event_open", buffer, 0, -1, -1, 0)
attempt("userfaultfd", call, "userfaultfd", 0)
""",
    "files by handle": """
attempt(1, call, "open_by_handle_at", -100, ctypes.create_string_buffer(64), 0)
""",
    "modules, kexec, reboot, swap, clock": """
for name, *arguments in (("init_module", 0, 0, b""), ("kexec_load", 0, 0, 0, 0),
                         ("reboot", 1, 2, 3, 0), ("swapon", b"/x", 0),
                         ("clock_settime", 0, ctypes.create_string_buffer(16))):
    try: call(name, *arguments)
    except OSError as e:
        if e.errno not in (errno.EPERM, errno.ENOSYS): worked.append((name, e.errno))
    else: worked.append(name)
""",
    "each system call that the filter names": """
for name in DENIED:
    try: call(name, -1, -1, -1, -1, -1, -1)
    except OSError as e:
        if e.errno != errno.EPERM: worked.append((name, e.errno))
    else: worked.append(name)
""",
    "system calls newer than the filter": """
for number in (457, 500, 1000):
    try: call(number, 0, 0, 0)
    except OSError as e:
        if e.errno != errno.ENOSYS: worked.append((number, e.errno))
    else: worked.append(number)
""",
    "privileges": """
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
worked = [k for k in ("CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd") if int(status[k], 16)]
worked += [] if status["NoNewPrivs"].strip() == "1" else ["privileges can be gained"]
worked += [] if status["Seccomp"].strip() == "2" else ["no filter"]
worked += [] if os.getuid() and os.geteuid() and os.getgid() else ["root"]
attempt("setuid", os.setuid, 0)
attempt("setgroups", os.setgroups, [0])
attempt("limits", __import__("resource").setrlimit, 7, (100000, 100000))
""",
    "processes of the host": """
worked = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if pid > 4]
worked += [pid for pid in range(5, 40000) if not libc.kill(pid, 0) or ctypes.get_errno() == 1]
""",
    "the parent's end": """
import signal
for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSEGV, signal.SIGSTOP):
    os.kill(1, number)
""",
    "the first process, to blind or starve it": """
import resource
attempt("limits", resource.prlimit, 1, resource.RLIMIT_NOFILE, (3, 3))
attempt("processors", os.sched_setaffinity, 1, [0])
attempt("scheduling", os.sched_setscheduler, 1, os.SCHED_IDLE, os.sched_param(0))
attempt("priority", os.setpriority, os.PRIO_PROCESS, 1, 19)
attempt("priority of the user", os.setpriority, os.PRIO_USER, 0, 19)
resource.prlimit(os.getpid(), resource.RLIMIT_NOFILE, (32, 32))
os.setpriority(os.PRIO_PROCESS, 0, 1)
""",
    "marks of an earlier run": """
marks = ["/tmp/mark", "mark", "/dev/shm/mark", "/var/tmp/mark", "/dev/mqueue/mark"]
marks = [mark for mark in marks if os.path.isdir(os.path.dirname(mark) or ".")]
worked = [m for m in marks if os.path.exists(m)]
for mark in marks: open(mark, "w").write("x")
""",
}


OF_THE_IMAGE = {"bubblewrap": (), "docker": ("/etc/passwd", "/root", "/sys/kernel")}
"""Paths that a container shows: the image's own, or without anything that is secret."""


@pytest.mark.parametrize("goal", FUTILE)
async def test_a_program_looks_in_vain_for(goal: str, runner: Runner, planted: Planted) -> None:
    for _ in range(2 if goal == "marks of an earlier run" else 1):
        outcome = await attack(runner, planted, FUTILE[goal] + "\nworked")
        assert outcome.status == "ok", outcome
        found = literal_eval(outcome.result or "None")
        assert [f for f in found if f not in OF_THE_IMAGE[runner.backend.name]] == []


async def test_the_attacks_do_work_outside(planted: Planted) -> None:
    """Else they would prove nothing: the plants can be found by a program that is not contained."""
    found: list[str] = []
    socket.create_connection(("127.0.0.1", planted.port), DEADLINE).close()
    with socket.socket(socket.AF_UNIX) as unix:
        unix.connect(f"\0{planted.abstract}")
    found += [v for v in os.environ.values() if v == "canary"]
    assert found and planted.file.read_text() == "canary"


# Programs that take too much: they are stopped, or a limit stops them.
GREEDY = {
    "processes": (
        "n = 0\nwhile n < 2000:\n if os.fork() == 0: __import__('time').sleep(60)\n n += 1",
        {"error"},
        "BlockingIOError",
    ),
    "threads": (
        "import threading\nfor n in range(2000):\n"
        " threading.Thread(target=__import__('time').sleep, args=(60,), daemon=True).start()",
        {"error"},
        "can't start new thread",
    ),
    "descriptors": (
        "kept = [os.open('/dev/null', 0) for _ in range(100000)]",
        {"error"},
        "Too many open files",
    ),
    "the working directory": (
        "for n in range(64):\n open(str(n), 'wb').write(b'x' * (1 << 20))",
        {"error"},
        "No space left",
    ),
    "shared memory": (
        "open('/dev/shm/x', 'wb').write(b'x' * (8 << 20))",
        {"error"},
        "No space left",
    ),
    "one huge file": (
        "os.truncate(os.open('x', os.O_CREAT | os.O_RDWR), 1 << 40)",
        {"error"},
        "File too large",
    ),
    "memory": ("kept = [bytearray(b'x') * (16 << 20) for _ in range(64)]", {"memory_limit"}, ""),
    "memory in many processes": (
        """
for n in range(8):
    if os.fork() == 0:
        kept = bytearray(b'x') * (40 << 20)
        __import__('time').sleep(600)
sys.exit(bool(os.wait()[1]))
""",
        {"memory_limit"},
        "",
    ),
    "memory in files without a name": (
        """
fds = [os.memfd_create("x") for _ in range(40)]
for fd in fds:
    for _ in range(8): os.write(fd, b"x" * (1 << 20))""",
        {"memory_limit"},
        "",
    ),
    "memory in datagrams that nobody reads": (
        """
for _ in range(4):
    if os.fork() == 0: break
held = [socket.socket(2, 2) for _ in range(120)]
for one in held:
    one.bind(("127.0.0.1", 0))
    for _ in range(3): one.sendto(b"x" * 60000, one.getsockname())
__import__("time").sleep(600)
""",
        {"memory_limit"},
        "",
    ),
    "memory in connections that nobody reads": (
        """
for _ in range(4):
    if os.fork() == 0: break
held = [socket.create_server(("127.0.0.1", 0), backlog=100)]
for _ in range(60):
    held.append(socket.create_connection(held[0].getsockname()))
    held[-1].setblocking(False)
    try:
        while True: held[-1].send(b"x" * 65536)
    except BlockingIOError: pass
__import__("time").sleep(600)
""",
        {"memory_limit"},
        "",
    ),
    "inodes": (
        "for n in range(400000): os.close(os.open(str(n), os.O_CREAT))",
        {"error"},
        "No space left",
    ),
    "one allocation": ("kept = bytearray(1 << 34)", {"memory_limit"}, "MemoryError"),
    "a repr": ("class R:\n def __repr__(self): return 'x' * (1 << 32)\nR()", {"memory_limit"}, ""),
    "recursion": ("def f(): f()\nf()", {"error"}, "RecursionError"),
    "a nested expression": ("eval('(' * 100000 + ')' * 100000)", {"error", "memory_limit"}, ""),
}


@pytest.mark.parametrize("what", GREEDY)
async def test_a_program_can_not_use_up(what: str, runner: Runner, planted: Planted) -> None:
    program, statuses, words = GREEDY[what]
    if "memory_limit" in statuses and not runner.bounded:
        pytest.skip("memory is not bounded as a whole on this machine")
    outcome = await runner.run(TOOLS + program, LIMITS)
    assert outcome.status in statuses, outcome
    assert words in outcome.stderr
    assert (await runner.run("1 + 1", LIMITS)).result == "2"


FLOODS = {
    "stdout": "while True: print('x' * 65535)",
    "stderr": "import sys\nwhile True: sys.stderr.write('x' * 65535)",
    "a descendant": "import os\nos.fork()\nwhile True: os.write(1, b'x' * 65535)",
}


@pytest.mark.parametrize("flood", FLOODS)
async def test_a_flood_is_cut_and_ended(flood: str, runner: Runner) -> None:
    before = psutil.Process().memory_info().rss
    outcome = await runner.run(FLOODS[flood], LIMITS)
    assert (outcome.status, outcome.truncated) == ("output_limit", True)
    assert len(outcome.stdout) + len(outcome.stderr) == LIMITS.output
    assert psutil.Process().memory_info().rss - before < 40 * MIB


ENDLESS = {
    "spins": "while True: pass",
    "ignores every signal": """
import signal, time
for n in range(1, 65):
    try: signal.signal(n, signal.SIG_IGN)
    except (OSError, ValueError): pass
time.sleep(600)""",
    "catches everything": """
while True:
    try:
        while True: pass
    except BaseException: pass""",
    "hangs in C": "import re\nre.match(r'(a+)+$', 'a' * 48 + 'b')",
    "stops itself": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    "compiles for ever": "eval('9' + '**9' * 9)",
    "stops its parent": "import os, signal, time\nos.kill(1, signal.SIGSTOP)\ntime.sleep(600)",
}


@pytest.mark.parametrize("how", ENDLESS)
async def test_a_program_ends_at_its_deadline_when_it(how: str, runner: Runner) -> None:
    heard: list[str] = []

    async def listen(stream: str, text: str) -> None:
        heard.append(text)

    code = f"print('early')\n{ENDLESS[how]}"
    outcome = await runner.run(code, Limits(timeout=1.0), listener=listen)
    assert outcome.status == "timeout", outcome
    assert outcome.stdout == "early\n" or not heard  # a slow machine may not have come to it


async def test_what_came_before_the_deadline_is_kept(runner: Runner) -> None:
    code = "print('early')\nwhile True: pass"
    outcome = await runner.run(code, Limits(timeout=300.0, cpu_time=2.0))
    assert (outcome.status, outcome.stdout) == ("timeout", "early\n")


async def test_nothing_survives_the_call(runner: Runner) -> None:
    name = f"mcpcp{os.getpid()}"
    outcome = await runner.run(
        f"""
import ctypes, os, time
told, tell = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(15, b"{name}")
        os.write(tell, b"x")
        os.closerange(0, 16)
        time.sleep(600)
    os._exit(0)
os.read(told, 1)
""",
        LIMITS,
    )
    assert outcome.status == "ok", outcome
    await until(lambda: name not in [p.info["name"] for p in psutil.process_iter(["name"])])


async def test_the_answer_comes_when_the_program_ends_not_when_its_pipes_close(
    runner: Runner,
) -> None:
    outcome = await runner.run(
        "import os, time\nif os.fork() == 0: time.sleep(600)\n'done'", LIMITS
    )
    assert (outcome.status, outcome.result) == ("ok", "'done'")  # else it were a timeout


async def test_the_answer_comes_when_a_pipe_is_held_open_by_nobody(runner: Runner) -> None:
    """By descriptors under way between sockets that only they hold: until the kernel sees that."""
    outcome = await runner.run(
        """
import socket
one, other = socket.socketpair()
socket.send_fds(one, [b"x"], [1, 2, other.fileno()])
socket.send_fds(other, [b"x"], [1, 2, one.fileno()])
one.close()
other.close()
"done"
""",
        LIMITS,
    )
    assert (outcome.status, outcome.result) == ("ok", "'done'"), outcome  # else it were a timeout


async def test_descriptors_under_way_in_one_sandbox_keep_no_other_from_coming_up(
    runner: Runner,
) -> None:
    """The kernel counts them for the user, who is the same in all."""
    hold = """
import socket, time
pairs = [socket.socketpair() for _ in range(8)]
try:
    for one, _ in pairs: socket.send_fds(one, [b"x"], [1] * 250)
except OSError: pass
print("held", flush=True)
time.sleep(600)
"""
    held = anyio.Event()

    async def heard(stream: str, text: str) -> None:
        held.set()

    async def attack_on_all() -> None:
        await runner.run(hold, LIMITS, listener=heard)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(attack_on_all)
        with anyio.fail_after(DEADLINE):
            await held.wait()
        for _ in range(2):
            assert (await runner.run("6 * 7", LIMITS)).result == "42"
        tasks.cancel_scope.cancel()


async def test_a_crash_is_reported_and_the_next_call_works(runner: Runner) -> None:
    outcome = await runner.run("import ctypes\nctypes.string_at(0)", LIMITS)
    assert (outcome.status, outcome.exit_code) == ("killed", -11)
    assert (await runner.run("1", LIMITS)).status == "ok"


async def test_a_forged_report_stays_text(runner: Runner) -> None:
    forged = """
import json, os, sys
report = json.dumps({"exit_code": 0, "finished": True, "result": "FORGED", "out_of_memory": False})
for fd in range(1, 32):
    try: os.write(fd, (("0" * 64) + report + ("0" * 64)).encode())
    except OSError: pass
os._exit(7)
"""
    outcome = await runner.run(forged, LIMITS)
    assert (outcome.status, outcome.exit_code, outcome.result) == ("error", 7, None)
    assert "FORGED" in outcome.stdout and "FORGED" in outcome.stderr


async def test_what_is_shown_has_no_hidden_characters(runner: Runner) -> None:
    code = r"""
print("\x1b[31mred\x1b[0m \x1b]52;c;ZXZpbA==\x07\x1b]8;;http://x\x1b\\link \u202eevil\x00\u200b")
import os
os.write(1, b"\xff\xfe\xed\xa0\x80 ok\n")
"\x9b31m" + chr(0xE0041) + "tag"
"""
    outcome = await runner.run(code, LIMITS)
    assert outcome.stdout == "red link evil\n\ufffd\ufffd\ufffd\ufffd\ufffd ok\n"
    assert "\x9b" not in str(outcome.result) and chr(0xE0041) not in str(outcome.result)


async def test_other_architectures_calls_kill(runner: Runner) -> None:
    """x32 calls would pass a filter that compares numbers only."""
    outcome = await runner.run(TOOLS + "call(0x40000000 + 39)", LIMITS)
    assert (outcome.status, outcome.exit_code) == ("killed", -31)


async def test_descriptors_and_threads_of_the_server_do_not_grow(runner: Runner) -> None:
    await runner.run("1", LIMITS)
    process = psutil.Process()
    before = process.num_fds(), threading.active_count()
    for _ in range(3):
        await runner.run("1", LIMITS)
    after = process.num_fds(), threading.active_count()
    assert after[0] <= before[0] and after[1] <= before[1]
