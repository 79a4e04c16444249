"""The event loop's process: what it keeps of its memory."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
from mcpcp import eventloop

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def answer():
    results = [b"x" * 100_000 for _ in range(32)]
    del results

async def main():
    for _ in range(3):
        answer()
    before = faults()
    for _ in range(100):
        answer()
    print(faults() - before)

eventloop.run(main)
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc gives memory back so soon"
)
def test_32_results_of_100_kb_are_made_again_and_again_in_the_same_memory() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=90, check=True
    )
    assert int(done.stdout) < 100  # of 80,000 pages
