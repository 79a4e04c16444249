"""Each limit: a variable that sets it, a default that the documents tell, and what it stops."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from servers.sandboxing import settings
from servers.sandboxing.candidates import candidates
from servers.sandboxing.outcome import MIB, Limits
from servers.sandboxing.settings import BadSetting, Settings
from tests.servers.harness import DEADLINE, ROOT
from tests.servers.sandboxing.runner import Runner

USUAL = Limits(timeout=DEADLINE)


@dataclass(frozen=True)
class Limited:
    """A limit set low, a program that needs more, and what then shows."""

    limit: dict[str, Any]
    code: str
    status: str
    words: str = ""


LIMITED = {
    "wall time": Limited({"timeout": 1.0}, "__import__('time').sleep(600)", "timeout"),
    "processor time": Limited({"cpu_time": 1.0, "timeout": 300.0}, "while True: pass", "timeout"),
    "memory": Limited(
        {"memory": 96 * MIB}, "kept = [bytearray(b'x') * MIB for _ in range(512)]", "memory_limit"
    ),
    "memory of all together": Limited(
        {"memory": 96 * MIB},
        "import os, sys, time\nfor _ in range(4):\n if os.fork() == 0:\n"
        "  kept = bytearray(b'x') * (40 * MIB)\n  time.sleep(600)\nsys.exit(bool(os.wait()[1]))",
        "memory_limit",
    ),
    "processes": Limited(
        {"processes": 8},
        "import os, time\nfor _ in range(64):\n if os.fork() == 0:\n  time.sleep(600)",
        "error",
        "Resource temporarily unavailable",
    ),
    "open files": Limited(
        {"open_files": 32}, "kept = [open('/dev/null') for _ in range(64)]", "error", "open files"
    ),
    "disk": Limited({"disk": 2 * MIB}, "for n in 'xyz': write(n, MIB)", "error", "No space left"),
    "scratch": Limited({"scratch": 2 * MIB}, "write('/tmp/x', 4 * MIB)", "error", "No space left"),
    "one file": Limited(
        {"disk": 2 * MIB}, "import os\nos.truncate(os.open('x', 66), 1 << 40)", "error", "too large"
    ),
    "inodes": Limited(
        {"inodes": 64}, "for n in range(99): open(str(n), 'w').close()", "error", "No space left"
    ),
    "output": Limited({"output": 1000}, "print('x' * 5000)", "ok"),
    "a flood": Limited({"flood": 65536}, "while True: print('x' * 999)", "output_limit"),
    "files that come out": Limited(
        {"file_count": 2}, "for n in range(4): write(str(n), 1)", "ok", "more than 2 files"
    ),
    "their size": Limited({"file_size": 10}, "write('x', 11)", "ok", "more than 10"),
    "their depth": Limited(
        {"file_depth": 2}, "import os\nos.makedirs('a/b')\nwrite('a/b/c', 1)", "ok", "deeper than 2"
    ),
}
TOOLS = """
MIB = 1 << 20
def write(path, size):
    with open(path, "wb") as file: file.write(bytes(size))
"""


@pytest.fixture(scope="module")
def docker_backend(sandbox_image: tuple[str, str]) -> Iterator[Runner]:
    host, image = sandbox_image
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", host)
        wanted = Settings(backend="docker", images=(image,), imports=())
        backend = next(candidates(wanted))
        yield Runner(backend)
        anyio.run(backend.close)


@pytest.fixture(
    params=[
        pytest.param("bwrap", marks=pytest.mark.bwrap),
        pytest.param("docker_backend", marks=pytest.mark.docker),
    ]
)
def runner(request: pytest.FixtureRequest) -> Runner:
    found: Runner = request.getfixturevalue(request.param)
    return found


@pytest.mark.anyio
@pytest.mark.parametrize("what", LIMITED)
async def test_a_limit_stops(what: str, runner: Runner) -> None:
    limited = LIMITED[what]
    outcome = await runner.run(TOOLS + limited.code, replace(USUAL, **limited.limit))
    assert outcome.status == limited.status, outcome
    assert limited.words in outcome.stderr + " ".join(outcome.skipped), outcome
    assert outcome.truncated is (what in ("output", "a flood") or bool(outcome.skipped))
    assert len(outcome.stdout) <= limited.limit.get("output", USUAL.output)
    roomy = await runner.run(TOOLS + "write('x', 11)\n6 * 7", USUAL)
    assert (roomy.status, roomy.result, len(roomy.files)) == ("ok", "42", 1), "it was the limit"


@pytest.mark.parametrize("variable", settings.LIMITS)
def test_a_variable_sets_its_limit(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, unit = settings.LIMITS[variable]
    monkeypatch.setenv(variable, "7")
    found = settings.settings("test").limits
    assert found == replace(Limits(), **{name: type(getattr(Limits(), name))(7 * unit)})
    for nonsense in ("much", "0", "-1", "nan", "inf"):
        monkeypatch.setenv(variable, nonsense)
        with pytest.raises(BadSetting, match=variable):
            settings.settings("test")


def documented() -> dict[str, str]:
    """The variables of the sandboxes' table, and the defaults that it tells."""
    page = Path(ROOT, "docs", "containment.md").read_text("utf-8")
    table = page[page.index("### Settings") : page.index("## run_docker")]
    return dict(re.findall(r"^\| `(SANDBOX_\w+)` \| `?([^|`]+?)`? \|", table, re.MULTILINE))


@pytest.mark.parametrize("variable", [*settings.LIMITS, *settings.SESSIONS])
def test_a_limit_s_default_is_the_documented_one(variable: str) -> None:
    table: dict[str, tuple[str, float]] = {**settings.LIMITS, **settings.SESSIONS}
    name, unit = table[variable]
    usual = Settings()
    holder: object = usual.limits if variable in settings.LIMITS else usual.session_rules
    assert float(documented()[variable]) == getattr(holder, name) / unit


def test_every_limit_has_a_variable() -> None:
    ours = {"result", "code"}  # bounds of what we say and take, not of what runs
    assert {name for name, _ in settings.LIMITS.values()} | ours == set(Limits.__slots__)
    assert set(documented()) >= {*settings.LIMITS, *settings.SESSIONS}
