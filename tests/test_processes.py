import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mcpcp import processes
from mcpcp.errors import FleetError
from mcpcp.processes import Launch
from tests.fleet import PATIENCE

SLEEP = (sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)")

Start = Callable[..., tuple[int, int]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a program and returns its pid and the read end of its output; kills it at the end."""
    with ExitStack() as stack:

        def run(*argv: str) -> tuple[int, int]:
            read_end, write_end = os.pipe()
            stack.callback(os.close, read_end)
            pid = processes.spawn(Launch("s", argv, dict(os.environ), tmp_path, write_end)).pid
            os.close(write_end)
            stack.callback(_reap, pid)
            return pid, read_end

        yield run


def _reap(pid: int) -> None:
    try:
        processes.signal_group(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass


def line(output: int) -> str:
    """The next line; nothing beyond it is read."""
    said = b""
    while not said.endswith(b"\n") and (byte := os.read(output, 1)):
        said += byte
    return said.decode().rstrip()


def until(condition: Callable[[], object], within: float = PATIENCE) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_spawned_process_leads_a_session_and_dies_with_its_parent(start: Start) -> None:
    program = (
        "import ctypes, os; n = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(n));"
        "print(os.getsid(0) == os.getpid(), n.value)"
    )
    _, output = start(sys.executable, "-c", program)
    assert line(output) == "True 9"


def test_a_spawned_process_has_no_descriptor_but_its_streams(start: Start) -> None:
    with socket.socket() as ours:
        os.set_inheritable(ours.fileno(), True)
        program = "import os; print(sorted(os.listdir('/proc/self/fd')))"
        _, output = start(sys.executable, "-c", program)
        # The fourth is the listing's own.
        assert line(output) == "['0', '1', '2', '3']"


@pytest.mark.parametrize(
    ("argv", "folder", "why"),
    [
        (("no-such-program",), ".", "there is no such program on the PATH"),
        (SLEEP, "missing", "the folder .*missing does not exist"),
        (("/etc/passwd",), ".", "Permission denied"),
        ((sys.executable, "a\0b"), ".", "null"),
    ],
)
def test_what_cannot_be_started_is_said(
    tmp_path: Path, argv: tuple[str, ...], folder: str, why: str
) -> None:
    launch = Launch("s", argv, dict(os.environ), tmp_path / folder, 2)
    with pytest.raises(FleetError, match=f"cannot start .*{why}"):
        processes.spawn(launch)


def test_a_stopped_process_hears_that_it_should_end(start: Start) -> None:
    pid, output = start(*SLEEP)
    assert line(output) == "up"
    os.kill(pid, signal.SIGSTOP)
    processes.wake_and_end(pid)
    assert processes.exit_code(os.waitpid(pid, 0)[1]) == -signal.SIGTERM


def test_signalling_a_group_that_is_gone_is_no_error(start: Start) -> None:
    pid, _ = start(sys.executable, "-c", "")
    assert not processes.group_is_empty(pid)
    os.waitpid(pid, 0)
    assert processes.group_is_empty(pid)
    assert not processes.signal_group(pid, signal.SIGTERM)


def test_descendants_are_found_and_killed_with_their_tree(start: Start) -> None:
    script = f"{sys.executable} -c 'import time; time.sleep(600)' & echo up; wait"
    pid, output = start("/bin/sh", "-c", f'sh -c "{script}" & wait')
    assert line(output) == "up"
    until(lambda: len(processes.descendants(pid)) == 2)
    below = processes.descendants(pid)
    assert all(processes.belongs_to(one, pid) for one in below)
    processes.kill_tree(pid)
    os.waitpid(pid, 0)
    until(lambda: not any(Path(f"/proc/{one}/cmdline").exists() for one in below))


def test_usage_sums_what_processes_have_used(start: Start) -> None:
    program = "x = b'x' * (60 << 20); sum(range(3_000_000)); print('up', flush=True)"
    pid, output = start(sys.executable, "-c", f"import time; {program}; time.sleep(600)")
    assert line(output) == "up"
    used = processes.usage([pid, 2**22 - 1])
    assert used.cpu_seconds > 0
    assert 60 << 20 < used.memory_bytes < 500 << 20


def test_whoever_holds_a_port_is_named(free_port: Callable[[], int], start: Start) -> None:
    port = free_port()
    assert processes.port_is_free(port)
    assert processes.port_owner(port) is None
    program = f"import socket, time; s = socket.create_server(('127.0.0.1', {port}));"
    pid, output = start(sys.executable, "-c", f"{program} print('up', flush=True); time.sleep(600)")
    assert line(output) == "up"
    assert not processes.port_is_free(port)
    assert processes.port_owner(port) == pid
    assert processes.listens(pid, port)
    assert not processes.listens(os.getpid(), port)
    assert processes.describe(pid).startswith(f"pid {pid} ({sys.executable} -c import socket")


def test_a_port_that_only_lingers_is_free(free_port: Callable[[], int]) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)) as server:
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = server.accept()
        accepted.close()  # whoever closes first is left in TIME_WAIT
        client.recv(1)
        client.close()
    assert processes.port_is_free(port)


def test_nobody_known_is_described_as_somebody_elses() -> None:
    assert processes.describe(None) == "a process of another user"
    assert processes.describe(2**22 - 1) == f"pid {2**22 - 1}"


@pytest.mark.parametrize(
    ("code", "text"),
    [(0, "exited with code 0"), (3, "exited with code 3"), (-9, "was ended by SIGKILL")],
)
def test_an_exit_is_told_in_words(code: int, text: str) -> None:
    assert processes.describe_exit(code) == text


def test_a_pidfd_tells_the_end(start: Start) -> None:
    pid, _ = start(*SLEEP)
    pidfd = processes.open_pidfd(pid)
    assert pidfd is not None
    try:
        assert not processes.has_ended(pidfd)
        os.kill(pid, signal.SIGKILL)
        until(lambda: processes.has_ended(pidfd))
    finally:
        os.close(pidfd)


ORPHANS = """
import subprocess, sys
from mcpcp.processes import become_subreaper, kill_everything_below_us
assert become_subreaper()
starter = (
    "import subprocess, sys\\n"
    "for n in range(3): subprocess.Popen(['sleep', '600'], start_new_session=bool(n))"
)
subprocess.run([sys.executable, "-c", starter], check=True)
print(kill_everything_below_us("x"), kill_everything_below_us("x"))
"""


def test_everything_below_is_killed_orphans_too() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ORPHANS],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stdout == "3 0\n", done.stderr


CHAIN = """
import os, subprocess, sys
from mcpcp.processes import become_subreaper, kill_everything_below_us
assert become_subreaper()
chain = (
    "import os, time\\n"
    "print('up', flush=True)\\n"
    "end = time.monotonic() + 60\\n"
    "while time.monotonic() < end:\\n"
    "    if os.fork(): os._exit(0)\\n"
    "    time.sleep(0.001)"
)
command = [sys.executable, "-c", chain]
chains = [
    subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) for _ in range(4)
]
for one in chains:
    one.stdout.readline()
kill_everything_below_us("x")
for one in chains:  # its end is seen when nobody holds the other end any more
    os.set_blocking(one.stdout.fileno(), False)
    assert os.read(one.stdout.fileno(), 1) == b""
"""


def test_what_forks_and_dies_all_the_time_is_killed_too() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHAIN],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
