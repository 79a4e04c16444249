"""The script python_code.py, started as it is and called by the SDK's client."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from servers.sandboxing import cgroup
from tests.processes import below
from tests.servers.harness import DEADLINE, ROOT, connected, running, until

pytestmark = pytest.mark.anyio

SCRIPT = ROOT / "servers" / "python_code.py"


async def call(url: str, code: str) -> dict[str, Any]:
    async with connected(url, "http", "auto") as client:
        result = await client.call_tool("run_python_code", {"code": code})
        assert isinstance(result.structured_content, dict), result
        return result.structured_content


async def test_it_offers_echo_and_run_python_code() -> None:
    with running(SCRIPT) as script:
        async with connected(script.url, "sse", "legacy") as client:
            tools = (await client.list_tools()).tools
    assert sorted(tool.name for tool in tools) == ["echo", "run_python_code"]


@pytest.mark.bwrap
async def test_it_runs_code_in_a_sandbox_of_its_own(bwrap: object) -> None:
    with running(SCRIPT, env={"HOST_SECRET": "canary", "SANDBOX_BACKEND": "bubblewrap"}) as script:
        ran = await call(
            script.url, "import os\nprint('hi')\n'canary' in str(os.environ), os.getuid() > 0"
        )
        assert (ran["status"], ran["stdout"], ran["result"]) == ("ok", "hi\n", "(False, True)")
        assert ran["backend"] == "bubblewrap" and ran["isolation"]["network"] == "none"
        failed = await call(script.url, "import sys\nsys.exit(3)")
        assert (failed["status"], failed["exit_code"]) == ("error", 3)
        assert script.get("/health").json()["status"] == "ok"


async def test_without_a_sandbox_it_refuses_and_is_degraded(tmp_path: Path) -> None:
    env = {"SANDBOX_BACKEND": "docker", "DOCKER_HOST": f"unix://{tmp_path}/none.sock"}
    with running(SCRIPT, env=env) as script:
        ran = await call(script.url, "open('/tmp/was-here', 'w')")
        assert (ran["status"], ran["exit_code"]) == ("refused", None)
        assert "apt install bubblewrap" in ran["stderr"]
        health = script.get("/health").json()
        assert health["status"] == "degraded" and "no sandbox" in health["detail"]
        assert script.get("/ready").status_code == 200


@pytest.fixture
def hanging_bwrap() -> Iterator[Path]:
    """A folder with a bubblewrap that never answers, and ends with the server that started it."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        program = Path(folder, "bwrap")
        program.write_text("#!/bin/sh\nexec cat >/dev/null\n")
        program.chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="bubblewrap is a program of Linux")
async def test_the_self_test_does_not_hold_up_health(hanging_bwrap: Path) -> None:
    path = f"{hanging_bwrap}:{os.environ['PATH']}"
    with running(SCRIPT, env={"SANDBOX_BACKEND": "bubblewrap", "PATH": path}) as script:
        health = script.get("/health").json()
        assert health["detail"] == "the sandbox's self-test is still running"


@pytest.mark.bwrap
async def test_a_sigkill_in_mid_call_leaves_nothing_after_the_next_start(bwrap: object) -> None:
    with running(SCRIPT) as script:
        server = psutil.Process(script.process.pid)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_call_in_vain, script.url)
            await until(lambda: len(below(server.pid)) >= 3)
            left = below(server.pid)
            script.kill()
        assert psutil.wait_procs(left, DEADLINE)[1] == []
    groups = cgroup.find()
    if groups is not None:  # what a dead server left is swept at the next start
        await until(lambda: not swept(groups, server.pid))  # its last processes may yet be ending


def swept(groups: cgroup.Groups, pid: int) -> list[Path]:
    """What a sweep leaves of a server's groups."""
    groups.sweep()
    parents = groups.parents.values()
    return [left for parent in parents for left in parent.glob(f"mcpcp-sandbox-{pid}-*")]


async def _call_in_vain(url: str) -> None:
    with suppress(Exception):
        await call(url, "import os, time\nos.fork()\ntime.sleep(600)")


async def test_a_backend_that_is_not_known_is_an_error() -> None:
    process = await anyio.run_process(
        [sys.executable, str(SCRIPT)], env={**os.environ, "SANDBOX_BACKEND": "jail"}, check=False
    )
    assert process.returncode == 1
    assert b"SANDBOX_BACKEND is auto or bubblewrap or docker, not 'jail'" in process.stderr
