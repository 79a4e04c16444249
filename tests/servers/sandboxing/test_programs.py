"""The programs in `programs/`, each called through the tool as an agent would, on each backend.

Each says in its header by what rule it passed:

verdict               prints VERDICT: CONTAINED, never VERDICT: ESCAPED
verdict_or_killed     the same, or the call ended by the limit that it attacks
verdict_then_healthy  the same, and the next call works
timeout, crash        the call ends with that status, in its deadline, and the next call works
truncated             output cut at the cap, said so, and the server's memory stayed flat
no_survivors          none of its processes is left on the machine
collector             nothing from outside the sandbox is in the files
prompt                the answer comes when the main process ends, not when the last pipe closes
verdict_plain         runs to its ordinary end, as text
sanitized             control, format and tag characters are gone from what the caller is shown
"""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import time
import unicodedata
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from servers.sandboxing.outcome import MIB
from tests.servers.harness import ROOT, Script, connected, running

pytestmark = pytest.mark.anyio

FOLDER = Path(__file__).with_name("programs")
PROGRAMS = {path.stem: path.read_text() for path in sorted(FOLDER.glob("*.py"))}
CANARY = Path("/var/tmp/mcpcp-canary/secret.txt")
SECRET = f"canary-{os.getpid()}"

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
    seconds: float

    @property
    def status(self) -> str:
        return str(self.result["status"])


def rule_of(program: str) -> str:
    found = re.search(r"^# OK_WHEN: (\w+)$", PROGRAMS[program], re.MULTILINE)
    assert found, program
    return found[1]


@pytest.fixture(scope="module", autouse=True)
def planted() -> Iterator[None]:
    """What the programs look for on the host; other workers may have planted the same."""
    CANARY.parent.mkdir(exist_ok=True)
    CANARY.write_text(SECRET)
    with ExitStack() as stack:
        for family, address in (
            (socket.AF_INET, ("127.0.0.1", 18999)),
            (socket.AF_UNIX, "\0mcp-canary"),
        ):
            listener = stack.enter_context(socket.socket(family))
            try:
                listener.bind(address)
                listener.listen()
            except OSError:
                continue
        yield


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


async def call(script: Script, code: str, timeout: float = 20.0) -> Answer:
    began = time.monotonic()
    async with connected(script.url, "http", "auto") as client:
        got = await client.call_tool("run_python_code", {"code": code, "timeout": timeout})
    assert isinstance(got.structured_content, dict), got
    text = "".join(getattr(block, "text", "") for block in got.content)
    return Answer(got.structured_content, text, time.monotonic() - began)


@pytest.mark.parametrize("program", PROGRAMS)
async def test_the_sandbox_contains(program: str, script: Script) -> None:
    rule = rule_of(program)
    timeout = 2.0 if rule == "timeout" else 60.0
    before = memory(script)
    if program == "p22_cross_session":
        await call(script, PROGRAMS[program])
    survivor = f"mcpcp{os.getpid()}"
    answer = await call(script, PROGRAMS[program].replace("mcpdaemon", survivor), timeout)
    assert SECRET not in json.dumps(answer.result) and SECRET not in answer.text
    CHECKS[rule](program, answer)
    assert memory(script) - before < 64 * MIB
    assert survivor not in [p.info["name"] for p in psutil.process_iter(["name"])]
    if rule in ("timeout", "crash", "verdict_then_healthy"):
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
    assert answer.seconds < 15


def crash(program: str, answer: Answer) -> None:
    assert (answer.status, answer.result["exit_code"]) == ("killed", -11), answer


def truncated(program: str, answer: Answer) -> None:
    assert answer.result["truncated"] is True
    assert answer.status == "output_limit", answer.status
    assert len(answer.text) < 250_000


def prompt(program: str, answer: Answer) -> None:
    verdict(program, answer)
    assert answer.seconds < 15


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
    "verdict_then_healthy": verdict,
    "timeout": timeout,
    "crash": crash,
    "truncated": truncated,
    "no_survivors": verdict,
    "collector": verdict,
    "prompt": prompt,
    "verdict_plain": verdict_plain,
    "sanitized": sanitized,
}


# What does its harm in a plain process where that is harmless to show: else it would prove nothing.
HARMFUL = (
    *("p17_env_leak", "p18_proc_environ", "p19_host_files", "p25_host_loopback"),
    *("p27_abstract_unix", "p42_signal_host"),
)


@pytest.mark.parametrize("program", HARMFUL)
def test_outside_a_sandbox_it_escapes(program: str, tmp_path: Path) -> None:
    import subprocess
    import sys

    ran = subprocess.run(
        [sys.executable, str(FOLDER / f"{program}.py")],
        cwd=tmp_path,
        env={**os.environ, "HOST_CANARY_SECRET": SECRET},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "VERDICT: ESCAPED" in ran.stdout, ran


async def test_a_plot_is_seen(script: Script) -> None:
    code = "from matplotlib import pyplot as plt\nplt.plot([1, 4, 9])\nplt.show()"
    async with connected(script.url, "http", "auto") as client:
        got = await client.call_tool("run_python_code", {"code": code, "timeout": 60})
    images = [block for block in got.content if block.type == "image"]
    assert got.structured_content and got.structured_content["status"] == "ok", got
    assert [i.mime_type for i in images] == ["image/png"]
    assert base64.b64decode(images[0].data).startswith(b"\x89PNG")
    assert [f["path"] for f in got.structured_content["files"]] == ["figure-1.png"]
