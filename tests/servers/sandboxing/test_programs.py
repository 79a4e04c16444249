"""The programs in `programs/`, each called through the tool as an agent would, on each backend.

Each says in its header by what rule it passed:

verdict               prints VERDICT: CONTAINED, never VERDICT: ESCAPED
verdict_or_killed     the same, or the call ended by the limit that it attacks
timeout, crash        the call ends with that status, and the next call works
truncated             output cut at the cap, said so, and the server's memory stayed flat
no_survivors          none of its processes is left on the machine
collector             nothing from outside the sandbox is in the files
verdict_plain         runs to its ordinary end, as text
sanitized             control, format and tag characters are gone from what the caller is shown
"""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from servers.sandboxing.outcome import MIB
from tests.servers.harness import DEADLINE, ROOT, Script, connected, running, until

pytestmark = pytest.mark.anyio

FOLDER = Path(__file__).with_name("programs")
PROGRAMS = {path.stem: path.read_text() for path in sorted(FOLDER.glob("*.py"))}
SECRET = f"canary-{os.getpid()}"
LONGEST = 300.0
"""Seconds that code may ask for at most."""

# a limit that a program attacks may end it: which, by the words in its name
LIMITS_MET = {
    "memory": {"memory_limit"},
    "memfd": {"memory_limit"},
    "disk": {"memory_limit"},
    "inode": {"memory_limit", "timeout"},
    "fork": {"timeout", "memory_limit"},
    "thread": {"timeout", "memory_limit"},
}


@dataclass(frozen=True)
class Answer:
    """What the agent got."""

    result: dict[str, Any]
    text: str

    @property
    def status(self) -> str:
        return str(self.result["status"])


def rule_of(program: str) -> str:
    found = re.search(r"^# OK_WHEN: (\w+)$", PROGRAMS[program], re.MULTILINE)
    assert found, program
    return found[1]


@dataclass(frozen=True)
class Planted:
    """What the host holds that the programs look for: this worker's own."""

    folder: str
    port: int
    abstract: str

    def sought_by(self, program: str) -> str:
        """The program's text with the names of what was planted, and a name for what survives."""
        text = PROGRAMS[program]
        for written, meant in (
            ("/var/tmp/mcpcp-canary", self.folder),
            ("18999", str(self.port)),
            ("mcp-canary", self.abstract),
            ("mcpdaemon", SURVIVOR),
        ):
            text = text.replace(written, meant)
        return text


SURVIVOR = f"mcpcp{os.getpid()}"


@pytest.fixture(scope="module")
def planted() -> Iterator[Planted]:
    abstract = f"canary-socket-{os.getpid()}"
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp") as folder,
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as unix,
        subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"],
            stdin=subprocess.PIPE,
            env={**os.environ, "HOST_CANARY_SECRET": SECRET},
        ),
    ):
        Path(folder).chmod(0o755)
        Path(folder, "secret.txt").write_text(SECRET)
        unix.bind(f"\0{abstract}")
        unix.listen()
        yield Planted(folder, tcp.getsockname()[1], abstract)


def served(backend: str, **env: str) -> Any:
    return running(
        ROOT / "servers" / "python_code.py",
        env={"HOST_CANARY_SECRET": SECRET, "SANDBOX_BACKEND": backend, **env},
    )


@pytest.fixture(scope="module")
def bubblewrap_server(bwrap: object) -> Iterator[Script]:
    with served("bubblewrap") as script:
        yield script


@pytest.fixture(scope="module")
def docker_server(sandbox_image: tuple[str, str]) -> Iterator[Script]:
    host, image = sandbox_image
    # each container would import numpy for itself, and few of these programs use it
    env = {"DOCKER_HOST": host, "SANDBOX_IMAGE": image, "SANDBOX_IMPORTS": "json"}
    with served("docker", **env) as script:
        yield script


@pytest.fixture(
    params=[
        pytest.param("bubblewrap_server", marks=pytest.mark.bwrap, id="bubblewrap"),
        pytest.param("docker_server", marks=pytest.mark.docker, id="docker"),
    ]
)
def script(request: pytest.FixtureRequest) -> Script:
    found: Script = request.getfixturevalue(request.param)
    return found


async def call(script: Script, code: str, timeout: float = LONGEST) -> Answer:
    async with connected(script.url, "http", "auto") as client:
        got = await client.call_tool("run_python_code", {"code": code, "timeout": timeout})
    assert isinstance(got.structured_content, dict), got
    text = "".join(getattr(block, "text", "") for block in got.content)
    return Answer(got.structured_content, text)


@pytest.mark.parametrize("program", PROGRAMS)
async def test_the_sandbox_contains(program: str, script: Script, planted: Planted) -> None:
    rule = rule_of(program)
    timeout = 2.0 if rule == "timeout" else LONGEST
    before = memory(script)
    code = planted.sought_by(program)
    if program == "p22_cross_session":
        await call(script, code)
    answer = await call(script, code, timeout)
    assert SECRET not in json.dumps(answer.result) and SECRET not in answer.text
    CHECKS[rule](program, answer)
    assert memory(script) - before < 64 * MIB
    await until(lambda: SURVIVOR not in [p.info["name"] for p in psutil.process_iter(["name"])])
    if rule in ("timeout", "crash"):
        assert (await call(script, "6 * 7")).result["result"] == "42"


def memory(script: Script) -> int:
    return int(psutil.Process(script.process.pid).memory_info().rss)


def verdict(program: str, answer: Answer) -> None:
    assert "VERDICT: CONTAINED" in answer.result["stdout"], answer
    assert "VERDICT: ESCAPED" not in answer.result["stdout"]


def verdict_or_killed(program: str, answer: Answer) -> None:
    assert "VERDICT: ESCAPED" not in answer.result["stdout"]
    allowed = [statuses for word, statuses in LIMITS_MET.items() if word in program]
    if not any(answer.status in statuses for statuses in allowed):
        verdict(program, answer)


def timeout(program: str, answer: Answer) -> None:
    assert answer.status == "timeout", answer


def crash(program: str, answer: Answer) -> None:
    assert (answer.status, answer.result["exit_code"]) == ("killed", -11), answer


def truncated(program: str, answer: Answer) -> None:
    assert answer.result["truncated"] is True
    assert answer.status == "output_limit", answer.status
    assert len(answer.text) < 250_000


def verdict_plain(program: str, answer: Answer) -> None:
    assert answer.status in ("ok", "error"), answer
    assert "FORGED" not in str(answer.result["result"])


def sanitized(program: str, answer: Answer) -> None:
    shown = answer.result["stdout"] + answer.text
    hidden = [c for c in shown if c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cf", "Co")]
    assert (answer.status, hidden) == ("ok", [])


CHECKS = {
    "verdict": verdict,
    "verdict_or_killed": verdict_or_killed,
    "timeout": timeout,
    "crash": crash,
    "truncated": truncated,
    "no_survivors": verdict,
    "collector": verdict,
    "verdict_plain": verdict_plain,
    "sanitized": sanitized,
}


# What does its harm in a plain process where that is harmless to show: else it would prove nothing.
HARMFUL = (
    *("p17_env_leak", "p18_proc_environ", "p19_host_files", "p25_host_loopback"),
    *("p27_abstract_unix", "p42_signal_host"),
)


@pytest.mark.parametrize("program", HARMFUL)
def test_outside_a_sandbox_it_escapes(program: str, planted: Planted, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", planted.sought_by(program)],
        cwd=tmp_path,
        env={**os.environ, "HOST_CANARY_SECRET": SECRET},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert "VERDICT: ESCAPED" in ran.stdout, ran


async def test_a_plot_is_seen(script: Script) -> None:
    code = "from matplotlib import pyplot as plt\nplt.plot([1, 4, 9])\nplt.show()"
    async with connected(script.url, "http", "auto") as client:
        got = await client.call_tool("run_python_code", {"code": code, "timeout": LONGEST})
    images = [block for block in got.content if block.type == "image"]
    assert got.structured_content and got.structured_content["status"] == "ok", got
    assert [i.mime_type for i in images] == ["image/png"]
    assert base64.b64decode(images[0].data).startswith(b"\x89PNG")
    assert [f["path"] for f in got.structured_content["files"]] == ["figure-1.png"]
