"""An empty `session` means the same to every tool: none was given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.servers.harness import ROOT, connected, running
from tests.servers.sandboxing.runner import Runner

pytestmark = [pytest.mark.anyio, pytest.mark.bwrap, pytest.mark.timeout(300)]


async def test_an_empty_session_is_none(bwrap: Runner, tmp_path: Path) -> None:
    env = {"SANDBOX_BACKEND": "bubblewrap", "MCPCP_DATA_DIR": str(tmp_path)}
    code = "open('left', 'x').close()"  # fails where an earlier call's files are
    for script, tool in (("python_code.py", "run_python_code"), ("sandbox.py", "execute_code")):
        with running(ROOT / "servers" / script, env=env) as started:
            async with connected(started.url, "http", "auto") as opened:

                async def call(name: str, opened: Any = opened, **given: Any) -> dict[str, Any]:
                    result = await opened.call_tool(name, given)
                    assert isinstance(result.structured_content, dict), result
                    return result.structured_content

                for _ in range(2):
                    ran = await call(tool, code=code, session="")
                    assert ran["status"] == "ok", ran
                if tool == "execute_code":
                    nothing: dict[str, Any] = {"sessions": [], "files": []}
                    assert await call("list_files", session="") == nothing
                    through = {"SANDBOX_URL": f"{started.url}/mcp"}
                    with running(ROOT / "servers" / "code_executor.py", env=through) as outer:
                        async with connected(outer.url, "http", "auto") as forwarded:
                            ran = await call(tool, forwarded, code=code, session="")
                            assert ran["status"] == "ok", ran
                    assert await call("list_files", session="") == nothing
                schemas = {t.name: t.input_schema for t in (await opened.list_tools()).tools}
                assert schemas[tool]["properties"]["session"]["anyOf"] == [
                    {"type": "string"},
                    {"type": "null"},
                ]
