import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mcpcp.errors import DeadlineExceeded, FleetError
from mcpcp.supervisor import lock

HOLDER = """
import sys
from pathlib import Path
from mcpcp.supervisor import lock
lock.acquire(Path(sys.argv[1]), Path("/c/mcpcp.json"))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def held(tmp_path: Path) -> Callable[[], subprocess.Popen[str]]:
    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLDER, str(tmp_path)]
        pipe = subprocess.PIPE
        holder = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        return holder

    return start


def test_the_second_one_learns_who_is_first(
    tmp_path: Path, held: Callable[[], subprocess.Popen[str]]
) -> None:
    with held() as holder:
        with pytest.raises(FleetError, match=rf"by pid {holder.pid}, since .*mcpcp down"):
            lock.acquire(tmp_path, Path("/c/mcpcp.json"))
        assert lock.is_held(tmp_path)
        holder.communicate()
    assert not lock.is_held(tmp_path)


def test_the_lock_is_free_when_its_holder_was_killed(
    tmp_path: Path, held: Callable[[], subprocess.Popen[str]]
) -> None:
    with held() as holder:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    lock.release(tmp_path, lock.acquire(tmp_path, Path("/c/mcpcp.json")))


def test_the_lock_is_held_until_every_copy_of_it_is_closed(tmp_path: Path) -> None:
    descriptor = lock.acquire(tmp_path, Path("/c"))
    copy = os.dup(descriptor)
    os.close(descriptor)
    assert lock.is_held(tmp_path)
    with pytest.raises(DeadlineExceeded):
        lock.wait_released(tmp_path, 0.05)
    os.close(copy)
    lock.wait_released(tmp_path, 0.05)


def test_a_released_lock_leaves_no_file(tmp_path: Path) -> None:
    lock.release(tmp_path, lock.acquire(tmp_path, Path("/c")))
    assert list(tmp_path.iterdir()) == []
    assert not lock.is_held(tmp_path)


def test_a_lock_on_a_file_that_was_removed_meanwhile_is_none(tmp_path: Path) -> None:
    first = lock.acquire(tmp_path, Path("/c"))
    (tmp_path / lock.LOCK).unlink()
    second = lock.acquire(tmp_path, Path("/c"))
    assert lock.is_held(tmp_path)
    os.close(first)
    assert lock.is_held(tmp_path)
    lock.release(tmp_path, second)


def test_who_only_looks_leaves_no_file(tmp_path: Path) -> None:
    assert not lock.is_held(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_who_looks_for_long_keeps_nobody_from_starting(tmp_path: Path) -> None:
    looking = os.open(tmp_path / lock.LOCK, os.O_RDWR | os.O_CREAT)
    fcntl.flock(looking, fcntl.LOCK_EX)
    with ThreadPoolExecutor(1) as threads:
        starting = threads.submit(lock.acquire, tmp_path, Path("/c"))
        with pytest.raises(TimeoutError):
            starting.result(1)
        os.close(looking)
        lock.release(tmp_path, starting.result())


def test_a_fleet_that_ends_after_its_guard_was_killed_is_waited_for(
    tmp_path: Path, held: Callable[[], subprocess.Popen[str]]
) -> None:
    with held() as holder:
        supervisor = os.open(tmp_path / lock.LOCK, os.O_RDWR)
        holder.kill()
        holder.communicate()
    fcntl.flock(supervisor, fcntl.LOCK_EX)  # as with the guard's own open file
    with ThreadPoolExecutor(1) as threads:
        starting = threads.submit(lock.acquire, tmp_path, Path("/c"))
        with pytest.raises(TimeoutError):
            starting.result(1)
        os.close(supervisor)
        lock.release(tmp_path, starting.result())
