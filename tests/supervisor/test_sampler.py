import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from mcpcp.processes import NAME_MARK
from mcpcp.supervisor.sampler import Sampler

PROGRAM = """
import subprocess, sys
child = subprocess.Popen(["sleep", "600"], start_new_session=True, env={})
print(child.pid, flush=True)
sys.stdin.read()
child.kill()
child.wait()
"""


@pytest.fixture
def family() -> Iterator[tuple[int, int]]:
    """A process, and a child of it that neither its session nor its environment betrays."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, NAME_MARK: "marked"},
    ) as process:
        assert process.stdout
        yield process.pid, int(process.stdout.readline())
        process.communicate()


def test_a_tree_is_measured_from_the_second_look_on(family: tuple[int, int]) -> None:
    leader, _ = family
    sampler = Sampler()
    first = sampler.sample({"s": leader})["s"]
    second = sampler.sample({"s": leader})["s"]
    assert first.cpu_percent == 0
    assert second.cpu_percent >= 0
    assert second.memory_bytes > 5 << 20


def test_a_process_that_is_gone_uses_nothing() -> None:
    assert Sampler().sample({"s": 2**22 - 1})["s"].memory_bytes == 0


def test_whose_a_process_is_tells_its_session_then_what_was_seen_then_its_mark(
    family: tuple[int, int],
) -> None:
    leader, stray = family
    sampler = Sampler()
    assert sampler.owner(stray) is None
    assert sampler.owner(leader) == "marked"
    assert sampler.owner(leader, {leader: "led"}) == "led"
    sampler.sample({"seen": leader})
    assert sampler.owner(stray) == "seen"
