"""Packages for code in containers: installed by bubblewrap, shown read-only by the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mcp.client.client import Client

from servers.sandboxing import bubblewrap
from tests.engine import IMAGE, DockerEngine, absent
from tests.servers.harness import ROOT, connected, running
from tests.servers.packages.index import Index

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.bwrap,
    pytest.mark.docker,
    pytest.mark.timeout(600),
]

LOOK = """
import os, lib
found = []
for path in (lib.__file__, os.path.join(os.path.dirname(lib.__file__), "new.py")):
    try:
        open(path, "a")
        found.append(path)
    except OSError:
        pass
(lib.VALUE, found, sorted(os.listdir("/opt/packages")), os.listdir("/work"))
"""


async def call(opened: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await opened.call_tool(tool, arguments)
    assert isinstance(result.structured_content, dict), result
    return result.structured_content


async def test_code_in_a_container_sees_its_packages_and_no_others(
    docker_engine: DockerEngine, index: Index, tmp_path: Path
) -> None:
    if bubblewrap.find_bwrap() is None:
        absent("bubblewrap")
    index.add("app", needs=["lib"])
    index.add("lib", "1.0")
    index.add("lib", "2.0", files={"lib.py": b"VALUE = 'the newer one'\n"})
    env = {
        "DOCKER_HOST": docker_engine.host,
        "MCPCP_DATA_DIR": str(tmp_path),
        "SANDBOX_BACKEND": "docker",
        "SANDBOX_IMAGE": IMAGE,
        "SANDBOX_IMPORTS": "",
        "SANDBOX_INDEX_URL": index.url,
    }
    with running(ROOT / "servers" / "sandbox.py", env=env) as script:
        async with connected(script.url, "http", "auto") as opened:
            made = await call(opened, "install_package", name="app")
            assert made["status"] == "installed", made
            ran = await call(opened, "execute_code", code=LOOK)
            assert ran["backend"] == "docker", ran
            [kept] = [p.name for p in (tmp_path / "sandbox/packages/environments").iterdir()]
            assert ran["result"] == repr(("the newer one", [], [kept], [])), ran
            other = await call(opened, "execute_code", code=LOOK, packages=["lib==1.0"])
            assert other["result"] and "it works" in other["result"], other
            assert kept not in other["result"]
            files = {"session": "s", "path": "in.txt", "content": "x"}
            await call(opened, "write_file", **files)
            code = "import app\n(app.VALUE, open('in.txt').read())"
            both = await call(opened, "execute_code", code=code, session="s")
            assert both["result"] == "('it works', 'x')", both
