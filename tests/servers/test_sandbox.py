"""The script sandbox.py, started as it is and called by the SDK's client, with an index of ours."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from mcp.client.client import Client
from mcp_types import RequestParamsMeta

from servers.packages.approvals import Approvals
from servers.sandboxing import bubblewrap
from tests.engine import absent
from tests.servers.harness import ROOT, Script, connected, running
from tests.servers.packages.index import Index, serving

pytestmark = [pytest.mark.anyio, pytest.mark.bwrap]

SCRIPT = ROOT / "servers" / "sandbox.py"
CREDENTIAL = "5ec3e7"


@pytest.fixture
def index() -> Iterator[Index]:
    if bubblewrap.find_bwrap() is None:
        absent("bubblewrap")
    with serving() as opened:
        yield opened


@contextmanager
def started(folder: Path, index: Index | None = None, **env: str) -> Iterator[Script]:
    variables = {
        "SANDBOX_BACKEND": "bubblewrap",
        "MCPCP_DATA_DIR": str(folder),
        "SANDBOX_INDEX_URL": index.url if index else "http://127.0.0.1:9/simple",
        **env,
    }
    with running(SCRIPT, env=variables, credential=CREDENTIAL) as script:
        yield script


@asynccontextmanager
async def client(script: Script) -> AsyncIterator[Client]:
    async with connected(script.url, "http", "auto", CREDENTIAL) as opened:
        yield opened


def named(agent: str) -> RequestParamsMeta:
    """As the gateway names an agent."""
    return cast("RequestParamsMeta", {"mcpcp/agent": agent})


async def call(opened: Client, tool: str, agent: str = "ann", **arguments: Any) -> dict[str, Any]:
    """The structured answer of a call for `agent`."""
    result = await opened.call_tool(tool, arguments, meta=named(agent))
    assert isinstance(result.structured_content, dict), result
    return result.structured_content


async def complaint(opened: Client, tool: str, agent: str = "ann", **arguments: Any) -> str:
    """What a call that fails says."""
    result = await opened.call_tool(tool, arguments, meta=named(agent))
    assert result.is_error
    return "".join(part.text for part in result.content if part.type == "text")


async def test_its_tools_say_what_they_do(tmp_path: Path) -> None:
    with started(tmp_path) as script:
        async with client(script) as opened:
            tools = {tool.name: tool for tool in (await opened.list_tools()).tools}
    assert sorted(tools) == [
        "delete_session",
        "echo",
        "execute_code",
        "install_package",
        "list_files",
        "list_packages",
        "read_file",
        "write_file",
    ]
    for name, tool in tools.items():
        assert tool.annotations and tool.output_schema, name
        assert tool.description, name
    reading = {name for name, t in tools.items() if t.annotations and t.annotations.read_only_hint}
    assert reading == {"echo", "list_packages", "list_files", "read_file"}
    assert (
        tools["delete_session"].annotations and tools["delete_session"].annotations.destructive_hint
    )


async def test_packages_are_installed_for_one_agent_and_stay(tmp_path: Path, index: Index) -> None:
    index.add("app", "1.0", needs=["lib"])
    index.add("app", "2.0", needs=["lib"])
    path = index.add("lib")
    code = "import app, lib\napp.VALUE"
    with started(tmp_path, index) as script:
        async with client(script) as opened:
            made = await call(opened, "install_package", name="App", version="1.0")
            assert (made["status"], made["requires_approval"]) == ("installed", False)
            assert made["requested"] == ["app==1.0"]
            assert made["packages"] == [
                {"name": "app", "version": "1.0"},
                {"name": "lib", "version": "1.0"},
            ]
            assert (await call(opened, "execute_code", code=code))["result"] == "'it works'"
            others = await call(opened, "execute_code", agent="bob", code=code)
            assert "ModuleNotFoundError" in others["stderr"]
            assert (await call(opened, "list_packages", agent="bob"))["packages"] == []
    with started(tmp_path, index) as script:  # another process, the same data
        async with client(script) as opened:
            assert (await call(opened, "list_packages"))["requested"] == ["app==1.0"]
            assert (await call(opened, "execute_code", code=code))["result"] == "'it works'"
    assert index.asked.count(path) == 1


async def test_packages_can_be_named_in_the_call(tmp_path: Path, index: Index) -> None:
    index.add("lib", "1.0")
    index.add("lib", "2.0")
    code = "import importlib.metadata as m\nm.version('lib')"
    with started(tmp_path, index) as script:
        async with client(script) as opened:
            for _ in range(2):
                ran = await call(opened, "execute_code", code=code, packages=["lib==1.0"])
                assert ran["result"] == "'1.0'"
            assert (await call(opened, "list_packages"))["packages"] == []
            refused = await call(opened, "execute_code", code=code, packages=["lib>=1"])
            assert (refused["status"], refused["exit_code"]) == ("refused", None)
            assert "is no package name" in refused["stderr"]


async def test_packages_can_t_be_changed_by_code(tmp_path: Path, index: Index) -> None:
    index.add("lib")
    code = "import lib\nopen(lib.__file__, 'a').write('x')"
    with started(tmp_path, index) as script:
        async with client(script) as opened:
            ran = await call(opened, "execute_code", code=code, packages=["lib"])
            assert ran["status"] == "error"
            assert "Read-only file system" in ran["stderr"] or "PermissionError" in ran["stderr"]


async def test_a_lookalike_waits_for_a_person(tmp_path: Path, index: Index) -> None:
    index.add("reqeusts")
    with started(tmp_path, index) as script:
        async with client(script) as opened:
            made = await call(opened, "install_package", name="reqeusts")
            assert (made["status"], made["requires_approval"]) == ("requires_approval", True)
            assert "mistaken for requests" in made["message"]
            assert "mcpcp packages approve reqeusts" in made["message"]
            assert index.asked == []  # the index has not even heard of it
            ran = await call(opened, "execute_code", code="1", packages=["reqeusts"])
            assert ran["status"] == "refused" and "approve reqeusts" in ran["stderr"]
            waiting = json.loads((tmp_path / "packages" / "waiting.json").read_text())["waiting"]
            assert [(w["package"], w["agents"]) for w in waiting] == [("reqeusts", ["ann"])]
            approved = {"approved": [{"package": "reqeusts", "at": 1}]}
            (tmp_path / "packages" / "approved.json").write_text(json.dumps(approved))
            assert (await call(opened, "install_package", name="reqeusts"))["status"] == "installed"


@pytest.mark.parametrize(
    ("needed", "status"), [("colourama", "blocked"), ("python-requests", "requires_approval")]
)
async def test_what_a_package_needs_is_judged_before_it_is_fetched(
    tmp_path: Path, index: Index, needed: str, status: str
) -> None:
    index.add("honest", needs=["middle"])
    index.add("middle", needs=[needed])
    index.add(needed)
    with started(tmp_path, index) as script:
        async with client(script) as opened:
            made = await call(opened, "install_package", name="honest")
            assert made["status"] == status and needed in made["message"]
    assert not index.was_asked(".whl")


async def test_a_revoked_approval_counts_for_what_is_installed(
    tmp_path: Path, index: Index
) -> None:
    index.add("numpi")
    approved = tmp_path / "packages" / "approved.json"
    approved.parent.mkdir()
    approved.write_text(json.dumps({"approved": [{"package": "numpi", "at": 1}]}))
    with started(tmp_path, index) as script:
        async with client(script) as opened:
            assert (await call(opened, "install_package", name="numpi"))["status"] == "installed"
            approved.write_text(json.dumps({"approved": []}))
            ran = await call(opened, "execute_code", code="import numpi")
            assert ran["status"] == "refused" and "numpi" in ran["stderr"]


async def test_the_operator_s_blocklist_and_strictness_count(tmp_path: Path, index: Index) -> None:
    for name in ("left", "right"):
        index.add(name)
    env = {"SANDBOX_PACKAGES_BLOCK": "left", "SANDBOX_PACKAGES_APPROVE": "unknown"}
    with started(tmp_path, index, **env) as script:
        async with client(script) as opened:
            assert (await call(opened, "install_package", name="left"))["status"] == "blocked"
            made = await call(opened, "install_package", name="right")
            assert made["status"] == "requires_approval"


async def test_what_does_not_work_says_why(tmp_path: Path, index: Index) -> None:
    index.add("app", needs=["lib>=2"])
    index.add("lib", "1.0")
    with started(tmp_path, index) as script:
        async with client(script) as opened:
            absent_one = await call(opened, "install_package", name="nothing-there")
            assert absent_one["status"] == "failed" and "nothing-there" in absent_one["message"]
            conflict = await call(opened, "install_package", name="app")
            assert conflict["status"] == "failed" and "lib" in conflict["message"]
            assert conflict["requested"] == []
            for wrong in ("../x", "a b", "-r"):
                made = await call(opened, "install_package", name=wrong)
                assert made["status"] == "invalid"
            pinned = await call(opened, "install_package", name="lib", version=">=1")
            assert pinned["status"] == "invalid" and "exact one" in pinned["message"]


async def test_sessions_keep_files_and_belong_to_one_agent(tmp_path: Path) -> None:
    with started(tmp_path) as script:
        async with client(script) as opened:
            wrote = await call(
                opened, "write_file", session="s", path="data/in.txt", content="grüße\x1b[2J"
            )
            assert wrote == {"path": "data/in.txt", "size": 11}
            code = "open('out.bin', 'wb').write(bytes(range(256)))\nopen('data/in.txt').read()[:5]"
            ran = await call(opened, "execute_code", code=code, session="s")
            assert ran["result"] == "'grüße'"
            files = (await call(opened, "list_files", session="s"))["files"]
            assert files == [{"path": "data/in.txt", "size": 11}, {"path": "out.bin", "size": 256}]
            text = await call(opened, "read_file", session="s", path="data/in.txt")
            assert (text["encoding"], text["content"]) == ("utf-8", "grüße")
            data = await call(opened, "read_file", session="s", path="out.bin")
            assert base64.b64decode(data["content"]) == bytes(range(256))
            assert (await call(opened, "list_files", agent="bob"))["sessions"] == []
            for tool in ("list_files", "read_file"):
                more = {"path": "out.bin"} if tool == "read_file" else {}
                said = await complaint(opened, tool, agent="bob", session="s", **more)
                assert "no session 's'" in said
            theirs = await call(opened, "delete_session", agent="bob", session="s")
            assert theirs == {"deleted": False}
            [mine] = (await call(opened, "list_files"))["sessions"]
            assert (mine["name"], mine["files"], mine["size"]) == ("s", 2, 267)
            assert await call(opened, "delete_session", session="s") == {"deleted": True}
            assert (await call(opened, "list_files"))["sessions"] == []


async def test_files_are_written_and_read_with_care(tmp_path: Path) -> None:
    with started(tmp_path) as script:
        async with client(script) as opened:
            for path in ("../x", "/etc/passwd", "a//b", "a/\u202eb", ""):
                said = await complaint(opened, "write_file", session="s", path=path, content="x")
                assert "path" in said
            wrong = {"session": "s", "path": "x", "content": "!", "encoding": "base64"}
            assert "is not base64" in await complaint(opened, "write_file", **wrong)
            long = "ä" * 200_000
            await call(opened, "write_file", session="s", path="long", content=long)
            read, offset = "", 0
            while offset is not None:
                part = await call(opened, "read_file", session="s", path="long", offset=offset)
                read, offset = read + part["content"], part["next_offset"]
            assert read == long


async def test_without_a_sandbox_it_refuses_and_is_degraded(tmp_path: Path) -> None:
    env = {"SANDBOX_BACKEND": "docker", "DOCKER_HOST": f"unix://{tmp_path}/none.sock"}
    with started(tmp_path, None, **env) as script:
        async with client(script) as opened:
            ran = await call(opened, "execute_code", code="1")
            assert ran["status"] == "refused" and "apt install bubblewrap" in ran["stderr"]
            made = await call(opened, "install_package", name="six")
            assert made["status"] == "unavailable"
        assert script.get("/health").json()["status"] == "degraded"


def test_a_file_that_can_t_be_read_approves_nothing(tmp_path: Path) -> None:
    approvals = Approvals(tmp_path)
    for text in ("", "{", "[]", '{"approved": 3}', '{"approved": [{"package": "a/b"}, 4]}'):
        (tmp_path / "approved.json").write_text(text)
        assert approvals.approved() == frozenset()
