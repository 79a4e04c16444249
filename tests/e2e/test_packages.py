"""Packages, the sandbox and its executor through the real launcher and gateway."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from servers.sandboxing import bubblewrap
from tests.engine import absent
from tests.fleet import PATIENCE, CallFailed, Fleet
from tests.processes import alive
from tests.servers.packages.index import serving

SERVERS = Path(__file__).resolve().parents[2] / "servers"
pytestmark = pytest.mark.bwrap


def test_a_package_is_approved_installed_and_used_by_way_of_the_executor(fleet: Fleet) -> None:
    if bubblewrap.find_bwrap() is None:
        absent("bubblewrap")
    with serving() as index:
        index.add("reqeusts", files={"reqeusts.py": b"VALUE = 42\n"})
        env = {"SANDBOX_BACKEND": "bubblewrap", "SANDBOX_INDEX_URL": index.url}
        fleet.add("sandbox", SERVERS / "sandbox.py", env=env, timeout="1h")
        wait = {"EXECUTOR_CONNECT_TIMEOUT": str(PATIENCE)}
        path = SERVERS / "code_executor.py"
        fleet.add("executor", path, calls=["sandbox"], timeout="1h", env=wait)
        fleet.add("stranger", path, timeout="1h", env=address(fleet))
        fleet.launch()
        use = {"code": "import reqeusts\nopen('out.txt', 'w').write('x')\nreqeusts.VALUE"}
        made = fleet.call("sandbox_install_package", PATIENCE, name="reqeusts")
        assert made["requires_approval"]
        assert "reqeusts" in fleet.mcpcp("packages", "list").stdout
        assert fleet.mcpcp("packages", "approve", "reqeusts").returncode == 0
        made = fleet.call("sandbox_install_package", PATIENCE, name="reqeusts")
        assert made["status"] == "installed"
        # the executor passes on whose call it is: same packages, same sessions
        ran = fleet.call("executor_execute_code", PATIENCE, **use, session="s")
        assert ran == "42"
        files = fleet.call("sandbox_list_files", session="s")["files"]
        assert [file["path"] for file in files] == ["out.txt"]
        killed = fleet.signal("sandbox", signal.SIGKILL)
        # a call that is sent to one that is about to end may have run: it would be told so
        fleet.until(lambda: not alive(killed), "the sandbox server has ended")
        assert fleet.call("executor_execute_code", PATIENCE, **use) == "42"
        # who is not told the sandbox's secret gets nowhere
        with pytest.raises(CallFailed):
            fleet.call("stranger_execute_code", PATIENCE, code="1")


def address(fleet: Fleet) -> dict[str, str]:
    """What a server would need that goes to the sandbox without being allowed to."""
    url = f"http://127.0.0.1:{fleet.servers['sandbox']['port']}/mcp"
    return {"SANDBOX_URL": url, "EXECUTOR_CONNECT_TIMEOUT": "1"}
