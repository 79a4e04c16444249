"""What /health says while that by which code is run is away, and when it is back by itself."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import anyio
import anyio.to_thread
import psutil
import pytest

from tests.engine import IMAGE, Dockerd
from tests.servers.harness import ROOT, Script, connected, running, until
from tests.servers.sandboxing.runner import Runner

if sys.platform != "linux":
    pytest.skip("only Linux stops processes and engines so", allow_module_level=True)

from tests.servers.sandboxing.test_trouble import execute, lives, no_process_left, started

pytestmark = pytest.mark.anyio

DEADLINE = 100.0


async def until_health(script: Script, status: str, detail: str = "") -> None:
    """Asked again and again: /health tells nobody by itself."""
    found: dict[str, str] = {}
    with anyio.move_on_after(DEADLINE):
        while True:
            found = (await anyio.to_thread.run_sync(script.get, "/health")).json()
            if found["status"] == status and detail in found.get("detail", ""):
                return
            await anyio.sleep(0.1)
    pytest.fail(f"/health is {found}, not {status} with {detail!r}")


async def of_each(scripts: Mapping[str, Script], status: str, detail: str = "") -> None:
    for script in scripts.values():
        await until_health(script, status, detail)


@pytest.mark.docker
@pytest.mark.timeout(600)
async def test_an_engine_that_goes_away_or_hangs_and_comes_back(
    own_engine: Dockerd, tmp_path: Path
) -> None:
    """One test for both servers, because an engine of its own takes seconds to make."""
    env = {
        "DOCKER_HOST": own_engine.host,
        "MCPCP_DATA_DIR": str(tmp_path),
        "SANDBOX_BACKEND": "docker",
        "SANDBOX_IMAGE": IMAGE,
        "SANDBOX_IMPORTS": "",
    }
    with (
        running(ROOT / "servers" / "python_code.py", env=env) as plain,
        running(ROOT / "servers" / "sandbox.py", env=env) as full,
    ):
        scripts = {"run_python_code": plain, "execute_code": full}
        await of_each(scripts, "ok")
        await anyio.to_thread.run_sync(own_engine.stop)
        await of_each(scripts, "degraded", "no Docker engine answers")
        await anyio.to_thread.run_sync(own_engine.start)
        await of_each(scripts, "ok")
        os.kill(own_engine.pid, signal.SIGSTOP)
        try:
            await of_each(scripts, "degraded", "does not answer")
        finally:
            os.kill(own_engine.pid, signal.SIGCONT)
        await of_each(scripts, "ok")
        for tool, script in scripts.items():
            async with connected(script.url, "http", "auto") as opened:
                ran = await opened.call_tool(tool, {"code": "6 * 7"})
                assert ran.structured_content and ran.structured_content["result"] == "42", ran


@pytest.mark.bwrap
@pytest.mark.timeout(300)
async def test_a_maker_that_does_not_come_up_and_then_does(bwrap: Runner, tmp_path: Path) -> None:
    with started(tmp_path) as script:
        await until_health(script, "ok")
        async with connected(script.url, "http", "auto") as opened:
            assert (await execute(opened, "1 + 1"))["result"] == "2"
            with no_process_left(script.process.pid):
                ended = psutil.Process(script.process.pid).children(recursive=True)
                ended[0].kill()  # the outermost, with which all others end
                await until(lambda: not any(map(lives, ended)))
                await until_health(script, "degraded", "sandboxes do not come up")
            await until_health(script, "ok")
            assert (await execute(opened, "6 * 7"))["result"] == "42"
