"""What honest programs need: libraries, files that come out, randomness, helpful errors."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from servers.sandboxing import cgroup
from servers.sandboxing.bubblewrap import Bubblewrap, interpreters
from servers.sandboxing.outcome import MIB, Limits
from tests.servers.harness import DEADLINE, until
from tests.servers.sandboxing.runner import Runner

pytestmark = pytest.mark.anyio

LIMITS = Limits(timeout=DEADLINE)

PROGRAMS = {
    "numpy": ("import numpy as np\nint(np.arange(10).sum())", "45"),
    "pandas": ("import pandas as pd\nint(pd.DataFrame({'a': [1, 2]}).a.sum())", "3"),
    "a library in a subprocess": (
        "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import numpy; print(7)'],"
        " capture_output=True, text=True).stdout",
        "'7\\n'",
    ),
    "a pool of processes": (
        "from multiprocessing import Pool\ndef f(x): return x * x\n"
        "with Pool(2) as pool: squares = pool.map(f, [1, 2, 3])\nsquares",
        "[1, 4, 9]",
    ),
    "a pool of threads": (
        "from concurrent.futures import ThreadPoolExecutor as T\nlist(T(4).map(abs, [-1, -2]))",
        "[1, 2]",
    ),
    "a server on loopback": (
        "import socket\ns = socket.create_server(('127.0.0.1', 0))\n"
        "c = socket.create_connection(s.getsockname())\nc.send(b'x')\ns.accept()[0].recv(1)",
        "b'x'",
    ),
    "an event loop with a subprocess": (
        "import asyncio\nasync def main():\n"
        " p = await asyncio.create_subprocess_exec('echo', 'hi', stdout=-1)\n"
        " return (await p.communicate())[0]\nasyncio.run(main())",
        "b'hi\\n'",
    ),
    "a script of its own": (
        "import os, subprocess\nopen('s.sh', 'w').write('#!/bin/sh\\necho ran')\n"
        "os.chmod('s.sh', 0o700)\nsubprocess.check_output(['./s.sh'])",
        "b'ran\\n'",
    ),
    "a pseudo-terminal": ("import os, pty\nos.ttyname(pty.openpty()[1])", "'/dev/pts/0'"),
    "sqlite in a file": (
        "import sqlite3\nc = sqlite3.connect('a.db')\nc.execute('create table t (x)')\n"
        "c.execute('insert into t values (5)')\nc.commit()\n"
        "c.execute('select x from t').fetchone()",
        "(5,)",
    ),
    "empty standard input": ("import sys\nsys.stdin.read()", "''"),
    "50 MiB": ("len(bytearray(b'x') * (50 << 20)) >> 20", "50"),
}


@pytest.mark.parametrize("what", PROGRAMS)
async def test_there_is(what: str, runner: Runner) -> None:
    code, result = PROGRAMS[what]
    outcome = await runner.run(code, LIMITS)
    assert (outcome.status, outcome.result) == ("ok", result), outcome


async def test_sandboxes_do_not_draw_the_same_numbers(runner: Runner) -> None:
    code = "import random, numpy, uuid\nrandom.random(), float(numpy.random.rand()), uuid.uuid4()"
    results = [(await runner.run(code, LIMITS)).result or "" for _ in range(3)]
    drawn = [set(result.strip("()").split(", ")) for result in results]
    assert len(drawn[0] | drawn[1] | drawn[2]) == 9, results


async def test_asking_for_input_fails_clearly(runner: Runner) -> None:
    outcome = await runner.run("input('name? ')", LIMITS)
    assert outcome.status == "error" and "input() has nobody to ask" in outcome.stderr


async def test_a_file_that_was_left_open_is_written(runner: Runner) -> None:
    outcome = await runner.run("f = open('left', 'w')\nf.write('unflushed')\nNone", LIMITS)
    assert [(f.path, f.data) for f in outcome.files] == [("left", b"unflushed")]


async def test_what_it_used_is_told(runner: Runner) -> None:
    code = "x = bytearray(b'x') * (40 << 20)\nn = 0\nfor i in range(3_000_000): n += i"
    outcome = await runner.run(code, LIMITS)
    assert (outcome.cpu_ms or 0) > 20 and (outcome.peak_memory_bytes or 0) > 40 * MIB, outcome


async def test_processor_time_of_the_whole_tree_is_bounded(runner: Runner) -> None:
    """Children that nobody waits for count as well."""
    spin = (
        "import os, signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "while True:\n if os.fork() == 0:\n  for _ in range(2_000_000): pass\n  os._exit(0)\n"
        " __import__('time').sleep(0.05)"
    )
    outcome = await runner.run(spin, replace(LIMITS, timeout=300.0, cpu_time=1.0))
    assert outcome.status == "timeout", outcome
    if runner.bounded:
        assert outcome.duration_ms < 300_000  # it was not the clock on the wall


async def test_only_what_changed_comes_out_of_a_session(runner: Runner) -> None:
    files = [("same", b"1"), ("touched", b"2"), ("d/gone", b"3"), ("d/linked", b"4")]
    code = (
        "import os\nopen('touched', 'w').write('5')\nos.unlink('d/gone')\nos.unlink('d/linked')\n"
        "os.symlink('/etc/hostname', 'd/linked')\nopen('new', 'w').write('6')"
    )
    outcome = await runner.run(code, LIMITS, files)
    assert {f.path: f.data for f in outcome.files} == {"touched": b"5", "new": b"6"}
    assert sorted(outcome.deleted) == ["d/gone", "d/linked"]
    assert outcome.skipped == ("'d/linked': it is no regular file",)


LEFT_OUT = {
    "too many files": ("for n in range(9): open(str(n), 'w')", "more than 4 files"),
    "a large file": ("open('x', 'wb').write(bytes(2000))", "2000 bytes are more than 1000"),
    "too much together, in holes": (
        "import os\nfor n in range(4): os.truncate(os.open(str(n), 66), 400_000)",
        "together are more than",
    ),
    "a deep tree": ("import os\nos.makedirs('a/b/c/d')\nopen('a/b/c/d/e', 'w')", "deeper than 3"),
    "a link": ("import os\nos.symlink('/etc/passwd', 'l')", "no regular file"),
    "a pipe": ("import os\nos.mkfifo('p')", "no regular file"),
    "a name that is no text": ("import os\nopen(os.fsencode('x') + b'\\xff', 'w')", "UTF-8"),
    "a name with an escape": ("open('\\x1b[31m', 'w')", "invisible character"),
    "a file that its owner closed": ("import os\nos.close(os.open('x', 64, 0))", "can't be read"),
}


@pytest.mark.parametrize("what", LEFT_OUT)
async def test_it_is_said_that_there_was(what: str, runner: Runner) -> None:
    code, why = LEFT_OUT[what]
    size = MIB if "together" in what else 1000
    limits = replace(LIMITS, file_count=4, file_size=size, file_depth=3, disk=MIB)
    outcome = await runner.run(code, limits)
    assert outcome.truncated and any(why in reason for reason in outcome.skipped), outcome


@pytest.fixture
async def shelf(tmp_path: Path) -> AsyncIterator[tuple[Runner, Path]]:
    """A backend with a folder of packages, which only root may walk to where we are root."""
    packages = tmp_path / "packages"
    packages.mkdir()
    tmp_path.chmod(0o700)
    for name in ("one", "two", "secret"):
        packages.joinpath(name).mkdir()
        packages.joinpath(name, f"{name}_module.py").write_text(f"name = {name!r}")
    backend = Bubblewrap(
        shutil.which("bwrap") or "", next(interpreters()), cgroup.find(), packages=packages
    )
    yield Runner(backend), packages
    await backend.close()


async def test_packages_of_the_call_are_shown_and_no_others(
    shelf: tuple[Runner, Path], bwrap: Runner
) -> None:
    runner, packages = shelf
    code = (
        "import os, one_module, two_module\nfound = [one_module.name, two_module.name]\n"
        "for place in ('/opt/packages/secret', '/run/packages/secret'):\n"
        " if os.path.exists(place): found.append(place)\n"
        "for path in ('/opt/packages/x', one_module.__file__):\n"
        " try: open(path, 'w')\n except OSError: pass\n else: found.append(path)\nfound"
    )
    outcome = await runner.run(code, LIMITS, packages=(packages / "one", packages / "two"))
    assert outcome.result == "['one', 'two']", outcome
    none = await runner.run("import os\nos.listdir('/opt/packages')", LIMITS)
    assert none.result == "[]"


async def test_a_package_that_comes_later_is_shown_as_well(
    shelf: tuple[Runner, Path], bwrap: Runner
) -> None:
    runner, packages = shelf
    await runner.run("1", LIMITS)
    packages.joinpath("late").mkdir()
    packages.joinpath("late", "late_module.py").write_text("name = 'late'")
    outcome = await runner.run(
        "import late_module\nlate_module.name", LIMITS, packages=(packages / "late",)
    )
    assert outcome.result == "'late'", outcome


async def test_two_sandboxes_at_once_find_nothing_of_each_other(runner: Runner) -> None:
    import anyio

    ready = anyio.Event()
    outcomes: list[str | None] = []

    async def heard(stream: str, text: str) -> None:
        ready.set()

    plant = (
        "import os, pty, socket, time\nfrom multiprocessing import shared_memory\n"
        "s = socket.socket(socket.AF_UNIX)\ns.bind('\\0planted')\ns.listen()\n"
        "t = socket.create_server(('127.0.0.1', 18123))\nm = pty.openpty()\n"
        "k = shared_memory.SharedMemory('planted', create=True, size=8)\n"
        "open('/tmp/planted', 'w')\nprint('ready', flush=True)\ntime.sleep(600)"
    )
    look = (
        "import os, socket\nfound = [p for p in ('/tmp/planted', '/dev/shm/planted', '/dev/pts/0')"
        " if os.path.exists(p)]\n"
        "for family, address in ((1, '\\0planted'), (2, ('127.0.0.1', 18123))):\n"
        " try: socket.socket(family).connect(address)\n except OSError: pass\n"
        " else: found.append(address)\n"
        "found += [p for p in os.listdir('/proc') if p.isdigit() and int(p) > 3]\nfound"
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(runner.run, plant, replace(LIMITS, timeout=300.0), (), (), heard)
        await until(ready.is_set)
        outcomes.append((await runner.run(look, LIMITS)).result)
        tasks.cancel_scope.cancel()
    assert outcomes == ["[]"]
