"""The script code_executor.py between a client and the real sandbox server, or none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from mcp.client.client import Client
from mcp_types import CallToolResult, RequestParamsMeta

from servers.executing.route import BadSetting, route
from servers.plumbing.credential import Callee
from servers.sandboxing import bubblewrap
from tests.engine import absent
from tests.processes import below, name
from tests.servers.harness import DEADLINE, ROOT, Script, connected, running, until

pytestmark = [pytest.mark.anyio, pytest.mark.bwrap]

SANDBOX, EXECUTOR = (ROOT / "servers" / name for name in ("sandbox.py", "code_executor.py"))


@contextmanager
def sandbox(folder: Path, *flags: str) -> Iterator[Script]:
    if bubblewrap.find_bwrap() is None:
        absent("bubblewrap")
    # code that would run for ever does so for longer than any test waits
    env = {"SANDBOX_BACKEND": "bubblewrap", "SANDBOX_TIMEOUT": "300", "MCPCP_DATA_DIR": str(folder)}
    with running(SANDBOX, *flags, env=env) as script:
        yield script


@contextmanager
def executor(url: str, **env: str) -> Iterator[Script]:
    patient = {"SANDBOX_URL": f"{url}/mcp", "EXECUTOR_CONNECT_TIMEOUT": str(DEADLINE)}
    with running(EXECUTOR, env={**patient, **env}) as script:
        yield script


@asynccontextmanager
async def client(script: Script) -> AsyncIterator[Client]:
    async with connected(script.url, "http", "auto") as opened:
        yield opened


async def execute(opened: Client, code: str, **more: Any) -> CallToolResult:
    return await opened.call_tool("execute_code", {"code": code, **more})


def text(result: CallToolResult) -> str:
    return "".join(part.text for part in result.content if part.type == "text")


async def test_the_sandbox_s_answer_comes_through_as_it_is(tmp_path: Path) -> None:
    with sandbox(tmp_path) as inner, executor(inner.url) as outer:
        async with client(outer) as opened:
            ran = await execute(opened, "open('x.txt', 'w').write('hi')\nprint('yes')", session="s")
            assert ran.structured_content and not ran.is_error
            assert ran.structured_content["stdout"] == "yes\n"
            assert [f["path"] for f in ran.structured_content["files"]] == ["x.txt"]
            kept = await execute(opened, "open('x.txt').read()", session="s")
            assert kept.structured_content and kept.structured_content["result"] == "'hi'"
            refused = await execute(opened, "1", packages=["../x"])
            assert refused.is_error and refused.structured_content
            assert refused.structured_content["status"] == "refused"


async def test_output_comes_as_progress(tmp_path: Path) -> None:
    heard: list[str] = []

    async def listen(progress: float, total: float | None, message: str | None) -> None:
        heard.append(message or "")

    with sandbox(tmp_path) as inner, executor(inner.url) as outer:
        async with client(outer) as opened, anyio.create_task_group() as tasks:
            given = {"code": f"print('first')\n{BUSY}"}
            call = partial(opened.call_tool, "execute_code", given, progress_callback=listen)
            tasks.start_soon(call)
            await until(lambda: "first" in "".join(heard))  # while the code runs
            tasks.cancel_scope.cancel()


def asleep(script: Script) -> bool:
    """Whether the code that a test runs is at work below the sandbox server."""
    return any(name(process) == "busy" for process in below(script.process.pid))


BUSY = """
import ctypes, time
ctypes.CDLL(None).prctl(15, b"busy", 0, 0, 0)
time.sleep(600)
"""


async def test_a_cancelled_call_is_cancelled_in_the_sandbox(tmp_path: Path) -> None:
    with sandbox(tmp_path) as inner, executor(inner.url) as outer:
        async with client(outer) as opened, anyio.create_task_group() as tasks:
            tasks.start_soon(execute, opened, BUSY)
            await until(lambda: asleep(inner))
            tasks.cancel_scope.cancel()
        await until(lambda: not asleep(inner))


async def test_a_sandbox_that_dies_in_mid_call_is_told_at_once_and_nothing_is_sent_twice(
    tmp_path: Path,
) -> None:
    with sandbox(tmp_path) as inner, executor(inner.url) as outer:
        async with client(outer) as opened, anyio.create_task_group() as tasks:
            told: list[CallToolResult] = []

            async def run() -> None:
                told.append(await execute(opened, BUSY))

            tasks.start_soon(run)
            await until(lambda: asleep(inner))
            inner.kill()
            await until(lambda: bool(told))
            assert told[0].is_error and "went away during the call" in text(told[0])
            with sandbox(tmp_path / "next", "--port", str(inner.port)):
                after = await execute(opened, "6 * 7")
                assert after.structured_content and after.structured_content["result"] == "42"


async def test_a_sandbox_that_is_away_is_waited_for(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    port = free_port()
    with executor(f"http://127.0.0.1:{port}") as outer:
        async with client(outer) as opened, anyio.create_task_group() as tasks:
            told: list[CallToolResult] = []

            async def run() -> None:
                told.append(await execute(opened, "6 * 7"))

            tasks.start_soon(run)
            await anyio.to_thread.run_sync(outer.wait_for, "tried again")
            with sandbox(tmp_path, "--port", str(port)):
                await until(lambda: bool(told))
            assert told[0].structured_content and told[0].structured_content["result"] == "42"


async def test_where_there_is_none_the_error_says_that_nothing_ran(
    free_port: Callable[[], int],
) -> None:
    with executor(f"http://127.0.0.1:{free_port()}", EXECUTOR_CONNECT_TIMEOUT="0.3") as outer:
        async with client(outer) as opened:
            result = await execute(opened, "1")
            assert result.is_error and "the code was not run" in text(result)


async def test_it_has_a_deadline_of_its_own(tmp_path: Path) -> None:
    with sandbox(tmp_path) as inner, executor(inner.url, EXECUTOR_TIMEOUT="2") as outer:
        async with client(outer) as opened:
            result = await execute(opened, BUSY)
            assert result.is_error and "has not answered for 2 s" in text(result)
        await until(lambda: not asleep(inner))


async def test_a_sandbox_of_a_fleet_refuses_one_that_it_does_not_know(tmp_path: Path) -> None:
    with (
        running(SANDBOX, env={"MCPCP_DATA_DIR": str(tmp_path)}, credential="5ec3e7") as inner,
        executor(inner.url, EXECUTOR_CONNECT_TIMEOUT="1") as outer,
    ):
        async with client(outer) as opened:
            result = await execute(opened, "1")
            assert result.is_error and "5ec3e7" not in text(result)


async def test_it_is_told_of_a_fleet_s_sandbox_and_names_the_agent(tmp_path: Path) -> None:
    env = {"SANDBOX_BACKEND": "bubblewrap", "MCPCP_DATA_DIR": str(tmp_path)}
    with running(SANDBOX, env=env, credential="5ec3e7") as inner:
        calls = {"sandbox": {"url": inner.url, "secret": "5ec3e7"}}
        with running(EXECUTOR, credential="0ther", calls=calls) as outer:
            async with connected(outer.url, "http", "auto", "0ther") as opened:
                ann = cast("RequestParamsMeta", {"mcpcp/agent": "ann"})
                given = {"code": "open('x', 'w').close()", "session": "s"}
                ran = await opened.call_tool("execute_code", given, meta=ann)
                assert ran.structured_content and ran.structured_content["status"] == "ok"
            async with connected(inner.url, "http", "auto", "5ec3e7") as direct:
                files = await direct.call_tool("list_files", {"session": "s"}, meta=ann)
                assert files.structured_content
                assert files.structured_content["files"] == [{"path": "x", "size": 0}]


def test_a_credential_goes_to_the_server_that_it_is_for_and_to_no_other() -> None:
    callee = Callee("http://127.0.0.1:9011", "5ec3e7")

    def headers(url: str) -> dict[str, str]:
        found = route(lambda name, usual: url if name == "SANDBOX_URL" else usual)
        found.learn({"sandbox": callee, "other": Callee("http://127.0.0.1:1", "no")})
        return dict(found.sandbox().headers)

    shown = {"x-mcpcp-credential": "5ec3e7"}
    assert headers("") == shown
    assert headers("http://localhost:9011/mcp") == shown
    for other in (
        "http://127.0.0.1:9012/mcp",
        "http://evil.test:9011/mcp",
        "https://127.0.0.1:9011",
    ):
        assert headers(other) == {}


def test_an_address_that_can_t_be_one_is_an_error() -> None:
    with pytest.raises(BadSetting, match="SANDBOX_URL"):
        route(lambda name, usual: "nonsense" if name == "SANDBOX_URL" else usual)
    with pytest.raises(BadSetting, match="EXECUTOR_TIMEOUT"):
        route(lambda name, usual: "soon" if name == "EXECUTOR_TIMEOUT" else usual)
