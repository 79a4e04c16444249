"""How every script serves, seen from outside: real processes, the SDK's client."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.shared.exceptions import MCPError
from mcp_types import TextContent

from tests.servers.harness import DEADLINE, PROBE, ROOT, Script, connected, running

pytestmark = pytest.mark.anyio

MODERN = "2026-07-28"
CLIENTS = [("sse", "legacy"), ("sse", MODERN), ("http", "legacy"), ("http", MODERN)]
SECRET = "5ec2e7"
SCRAPE = "may read metrics".replace(" ", "-")


@pytest.fixture(scope="module")
def probe() -> Iterator[Script]:
    with running(PROBE) as script:
        yield script


@pytest.fixture(scope="module")
def guarded() -> Iterator[Script]:
    with running(PROBE, credential=SECRET, scrape=SCRAPE) as script:
        yield script


def text(result: Any) -> str:
    [content] = result.content
    assert isinstance(content, TextContent)
    return content.text


@pytest.mark.parametrize(("transport", "mode"), CLIENTS)
async def test_one_port_serves_both_transports_and_both_eras(
    probe: Script, transport: str, mode: str
) -> None:
    async with connected(probe.url, transport, mode) as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        assert {"echo", "whoami"} <= names
        assert text(await client.call_tool("echo", {"message": "grüß dich"})) == "grüß dich"


@pytest.mark.parametrize("mode", ["legacy", MODERN])
async def test_without_flags_a_script_speaks_stdio_and_stray_prints_miss_the_wire(
    mode: str,
) -> None:
    parameters = StdioServerParameters(command=sys.executable, args=[str(PROBE)], cwd=ROOT)
    async with Client(stdio_client(parameters), mode=mode) as client:
        assert text(await client.call_tool("stray")) == "printed"
        assert text(await client.call_tool("echo", {"message": "still here"})) == "still here"
        meta: Any = {"mcpcp/agent": "ada"}
        assert text(await client.call_tool("whoami", meta=meta)) == "ada"


@pytest.mark.parametrize(("transport", "mode"), CLIENTS)
async def test_the_agent_is_known_on_every_way_in_when_the_credential_was_shown(
    guarded: Script, transport: str, mode: str
) -> None:
    meta: Any = {"mcpcp/agent": "ada"}
    async with connected(guarded.url, transport, mode, SECRET) as client:
        assert text(await client.call_tool("whoami", meta=meta)) == "ada"
        assert text(await client.call_tool("whoami")) == "nobody"


@pytest.mark.parametrize(("transport", "mode"), CLIENTS)
async def test_a_named_agent_is_not_believed_without_a_credential(
    probe: Script, transport: str, mode: str
) -> None:
    meta: Any = {"mcpcp/agent": "ada"}
    async with connected(probe.url, transport, mode) as client:
        assert text(await client.call_tool("whoami", meta=meta)) == "nobody"


@pytest.mark.parametrize("shown", [{}, {"X-Mcpcp-Credential": "wrong"}])
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/sse"), ("POST", "/messages/?session_id=0"), ("POST", "/mcp"), ("GET", "/nothing")],
)
def test_without_the_credential_every_mcp_path_answers_401(
    guarded: Script, method: str, path: str, shown: dict[str, str]
) -> None:
    url = guarded.url + path
    # only the head is read: the stream of a server that let us in would never end
    with httpx2.stream(method, url, headers=shown, timeout=DEADLINE) as answer:
        assert answer.status_code == 401


def test_health_and_ready_stay_open(guarded: Script) -> None:
    answers = {path: guarded.get(path).status_code for path in ("/health", "/ready")}
    assert answers == {"/health": 200, "/ready": 200}


@pytest.mark.parametrize(
    ("shown", "status"),
    [
        ({}, 401),
        ({"Authorization": f"Bearer {SCRAPE}"}, 200),
        ({"Authorization": f"Bearer {SECRET}"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"X-Mcpcp-Credential": SECRET}, 401),
    ],
)
def test_metrics_are_for_who_shows_the_scrape_token(
    guarded: Script, shown: dict[str, str], status: int
) -> None:
    assert guarded.get("/metrics", shown).status_code == status


def test_the_scrape_token_opens_nothing_else(guarded: Script) -> None:
    headers = {"Authorization": f"Bearer {SCRAPE}", "X-Mcpcp-Credential": SCRAPE}
    assert guarded.get("/sse", headers).status_code == 401


def test_without_a_scrape_token_nobody_reads_a_guarded_server_s_metrics() -> None:
    with running(PROBE, credential=SECRET) as script:
        for shown in ("Bearer", f"Bearer {SECRET}", SECRET):
            assert script.get("/metrics", {"Authorization": shown}).status_code == 401


def test_alone_a_script_s_metrics_are_open(probe: Script) -> None:
    assert probe.get("/metrics").status_code == 200


@pytest.mark.parametrize(("transport", "mode"), CLIENTS)
async def test_a_request_s_id_is_in_every_line_of_its_call(
    guarded: Script, transport: str, mode: str
) -> None:
    wanted = f"abc-{transport}-{mode}"
    meta: Any = {"mcpcp/request": wanted}
    async with connected(guarded.url, transport, mode, SECRET) as client:
        await client.call_tool("tell_the_log", {"text": wanted}, meta=meta)
        bad: Any = {"mcpcp/request": "a b"}
        await client.call_tool("tell_the_log", {"text": f"the end of {wanted}"}, meta=bad)
    assert guarded.wait_for(f"told {wanted}")["request"] == wanted
    guarded.wait_for("call", request=wanted)
    guarded.wait_for(f"told the end of {wanted}")
    assert "a b" not in {e.get("request") for e in guarded.log}


async def test_secrets_are_in_no_line(guarded: Script) -> None:
    jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"
    said = f"{SECRET} {SCRAPE} {jwt} Authorization: Bearer opaque-token end"
    async with connected(guarded.url, "http", MODERN, SECRET) as client:
        await client.call_tool("tell_the_log", {"text": said})
    line = guarded.wait_for("Authorization")["message"]
    assert line == "told [hidden] [hidden] [hidden] Authorization: Bearer [hidden] end"


async def test_the_credential_s_variable_is_gone_from_the_environment(guarded: Script) -> None:
    async with connected(guarded.url, "http", "legacy", SECRET) as client:
        result = await client.call_tool("environment")
    assert result.structured_content == {"result": []}


def test_an_unreadable_credential_stops_the_script_instead_of_opening_it() -> None:
    done = subprocess.run(
        [sys.executable, PROBE, "--transport", "sse"],
        env={**os.environ, "MCPCP_CREDENTIAL_FD": "77"},
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(b"probe: MCPCP_CREDENTIAL_FD=77 can't be read")


def test_health_names_the_server_and_its_pid(probe: Script) -> None:
    body = {"status": "ok", "name": "probe", "pid": probe.process.pid}
    assert probe.get("/health").json() == body


@pytest.mark.parametrize(
    ("said", "detail"),
    [("no engine", "no engine"), ("raise", "the health check itself failed")],
)
def test_a_degraded_server_says_so_and_still_serves(said: str, detail: str) -> None:
    with running(PROBE, env={"PROBE_DEGRADED": said}) as script:
        body = script.get("/health").json()
        assert (body["status"], body["detail"]) == ("degraded", detail)
        assert script.get("/ready").status_code == 200


async def test_metrics_count_calls_by_outcome_and_invent_no_label() -> None:
    with running(PROBE) as script:
        async with connected(script.url, "sse", "legacy") as client:
            await client.call_tool("echo", {"message": "a"})
            await client.call_tool("crash")
            await client.call_tool("made_up_by_a_client")
        metrics = script.get("/metrics").text
    assert 'mcp_tool_calls_total{outcome="ok",tool="echo"} 1.0' in metrics
    assert 'mcp_tool_calls_total{outcome="error",tool="crash"} 1.0' in metrics
    times = "mcp_server_operation_duration_seconds_count"
    assert f'{times}{{gen_ai_tool_name="(unknown)",mcp_method_name="tools/call"}} 1.0' in metrics
    assert "mcp_tool_calls_in_flight 0.0" in metrics
    assert "made_up" not in metrics


async def test_a_crash_s_message_stays_on_the_server(probe: Script) -> None:
    async with connected(probe.url, "http", MODERN) as client:
        result = await client.call_tool("crash")
    assert result.is_error
    assert "secret" not in text(result)


@pytest.mark.parametrize("path", ["/sse", "/mcp", "/messages/?session_id=0"])
def test_a_strange_host_is_refused_even_on_a_wildcard_bind(path: str) -> None:
    with running(PROBE, "--host", "0.0.0.0", "--allowed-host", "tools.example") as script:
        method = "GET" if path == "/sse" else "POST"

        def status(host: str) -> int:
            headers = {"Host": host, "Content-Type": "application/json"}
            url = script.url + path
            with httpx2.stream(method, url, headers=headers, timeout=DEADLINE) as answer:
                return answer.status_code

        assert status("evil.example") == 421
        assert status(f"tools.example:{script.port}") != 421
        assert status(f"127.0.0.1:{script.port}") != 421
        assert status("evil.example") == 421  # who was let in last is remembered, and nobody else
        script.stop()
        assert [entry for entry in script.log if entry["level"] == "ERROR"] == []


def test_a_strange_origin_is_refused(probe: Script) -> None:
    assert probe.get("/nothing").status_code == 404
    assert probe.get("/nothing", {"Origin": "http://evil.example"}).status_code == 403
    assert probe.get("/sse", {"Origin": "http://evil.example"}).status_code == 403


async def test_background_work_is_entered_once_a_process_however_many_sessions(
    tmp_path: Path,
) -> None:
    left = tmp_path / "left"
    with running(PROBE, env={"PROBE_LEFT": str(left)}) as script:
        for transport, mode in CLIENTS:
            async with connected(script.url, transport, mode) as client:
                assert text(await client.call_tool("times_entered")) == "1"
        assert script.stop() == 0
    assert left.read_text() == "left"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_idle_sse_streams_do_not_hold_up_a_stop(number: int) -> None:
    with running(PROBE) as script, httpx2.Client(timeout=DEADLINE) as http:
        streams = [http.send(http.build_request("GET", f"{script.url}/sse"), stream=True)]
        streams += [http.send(http.build_request("GET", f"{script.url}/sse"), stream=True)]
        assert script.stop(number) == 0
        for stream in streams:  # ended as a stream should, not cut off when patience ran out
            assert "event: endpoint" in stream.read().decode()
    steps = [entry["message"] for entry in script.log if entry["level"] != "DEBUG"]
    assert steps == ["listening", "stopping"]


@pytest.mark.parametrize(("transport", "mode"), CLIENTS)
async def test_a_stop_lets_the_call_in_flight_finish(transport: str, mode: str) -> None:
    answers: list[str] = []
    began = anyio.Event()

    async def told(progress: float, total: float | None, message: str | None) -> None:
        began.set()

    with running(PROBE) as script:
        async with connected(script.url, transport, mode) as client:
            await client.list_tools()  # or the client would ask for the schema after the answer

            async def call() -> None:
                held = await client.call_tool("hold", {"seconds": 0.6}, progress_callback=told)
                answers.append(text(held))

            with anyio.fail_after(DEADLINE):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(call)
                    await began.wait()
                    script.process.terminate()
        assert script.ended() == 0
    assert answers == ["held"]


async def test_a_call_that_never_ends_does_not_outlive_the_deadline() -> None:
    began = anyio.Event()

    async def told(progress: float, total: float | None, message: str | None) -> None:
        began.set()

    with running(PROBE) as script:
        with pytest.raises((BaseExceptionGroup, MCPError)):
            async with connected(script.url, "sse", "legacy") as client:

                async def stop() -> None:
                    await began.wait()
                    script.process.terminate()

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(stop)
                    await client.call_tool("hold", {"seconds": 600}, progress_callback=told)
        assert script.ended() == 0  # and not after 600 s
        script.wait_for("calls were still running")


class Pipes:
    """A script on stdio, spoken to line by line."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        capabilities: dict[str, Any] = {}
        hello = {"protocolVersion": "2025-06-18", "capabilities": capabilities}
        self.send(1, "initialize", {**hello, "clientInfo": {"name": "t", "version": "1"}})
        assert self.receive()["id"] == 1

    def send(self, number: int, method: str, params: dict[str, Any]) -> None:
        assert self.process.stdin
        ask = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        self.process.stdin.write(json.dumps(ask).encode() + b"\n")
        self.process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        assert self.process.stdout
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer


def on_pipes(**env: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, PROBE, "--log-format", "json"],
        env={**os.environ, **env},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def test_stdio_ends_with_stdin() -> None:
    with on_pipes() as script:
        Pipes(script)
        assert script.stdin
        script.stdin.close()
        assert script.wait(DEADLINE) == 0


def test_stdio_finishes_the_call_in_flight_when_it_is_told_to_stop() -> None:
    with on_pipes() as script:
        pipes = Pipes(script)
        call = {"name": "hold", "arguments": {"seconds": 0.5}, "_meta": {"progressToken": "p"}}
        pipes.send(2, "tools/call", call)
        assert pipes.receive()["method"] == "notifications/progress"
        script.terminate()
        assert pipes.receive()["result"]["content"][0]["text"] == "held"
        assert script.wait(DEADLINE) == 0


def test_failed_background_work_ends_the_script_so_that_it_is_restarted() -> None:
    with on_pipes(PROBE_FAILS="1") as script:
        assert script.wait(DEADLINE) == 1
    over_http = subprocess.run(
        [sys.executable, PROBE, "--transport", "sse"],
        env={**os.environ, "PROBE_FAILS": "1"},
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )
    assert over_http.returncode == 1
    assert b"the background work broke" in over_http.stderr


def test_a_taken_port_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        done = subprocess.run(
            [sys.executable, PROBE, "--transport", "http", "--port", str(port)],
            capture_output=True,
            timeout=DEADLINE,
            check=False,
        )
    assert done.returncode == 1
    expected = f"probe: can't listen on 127.0.0.1, port {port}: Address already in use\n"
    assert done.stderr.decode() == expected


def test_a_restart_binds_the_same_port_at_once(free_port: Callable[[], int]) -> None:
    with running(PROBE, "--port", str(free_port())) as first:
        assert first.get("/health").status_code == 200
        first.kill()
        with running(PROBE, "--port", str(first.port)) as second:
            assert second.get("/health").json()["pid"] == second.process.pid


FORKED = """
import os, runpy, sys
import mcp.server.mcpserver, uvicorn
child = os.fork()
if child == 0:
    runpy.run_path(sys.argv[0], run_name="__main__")
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_script_runs_in_a_process_forked_from_a_warm_one() -> None:
    launcher = "import sys; sys.argv.pop(0)\n" + FORKED
    script = ROOT / "servers" / "time_client.py"
    with running(script, launch=["-c", launcher]) as forked:
        body = forked.get("/health").json()
        assert body["name"] == "time"
        os.kill(body["pid"], signal.SIGTERM)
        assert forked.ended() == 0


def test_a_script_runs_as_a_module() -> None:
    with running("servers.time_client", launch=["-m"]) as script:
        assert script.get("/health").json()["name"] == "time"


UNINSTALLED = """
import runpy, sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_script_uses_the_package_beside_it_without_an_install(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNINSTALLED, ROOT / "servers" / "time_client.py", "--help"],
        cwd=tmp_path,
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )
    assert b"--transport sse" in done.stdout, done.stderr
