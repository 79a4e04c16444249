"""`mcpcp stdio` in front of a fleet: its client's session outlives the gateway."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from mcp import MCPError
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters

from mcpcp.config import load, runtime_dir
from mcpcp.control import CONTROL_SOCKET, GATEWAY_SOCKET
from mcpcp.state import FileRevocations
from mcpcp.tokens import read_claims
from tests.fleet import PATIENCE, Fleet
from tests.gateway.harness import RAW, Gateway
from tests.gateway.test_authority import works
from tests.gateway.test_servers_away import CHANGED, Changes, failing, names

pytestmark = pytest.mark.anyio

modes = pytest.mark.parametrize("mode", ["legacy", "auto"])


@pytest.fixture
def running(fleet: Fleet) -> Fleet:
    """A fleet whose gateway owns one raw server."""
    fleet.servers["raw"] = {"command": "python", "args": [str(RAW)]}
    fleet.launch()
    return fleet


def command(fleet: Fleet, *flags: str) -> list[str]:
    relay = ["-m", "mcpcp", "stdio", "--no-launch", "--config", str(fleet.config)]
    return [sys.executable, *relay, *flags]


@asynccontextmanager
async def relayed(
    fleet: Fleet, mode: str, token: str | None = None
) -> AsyncIterator[tuple[Any, Changes]]:
    """A client behind a relay, and what it heard of changed lists."""
    changes = Changes()

    async def heard(message: Any) -> None:
        if getattr(message, "method", "") == CHANGED:
            changes.add()

    program, *arguments = command(fleet, *([] if token else ["--agent", "tester"]))
    env = {**fleet.environ, **({"MCPCP_TOKEN": token} if token else {})}
    server = StdioServerParameters(command=program, args=arguments, env=env, cwd=fleet.folder)
    async with Client(server, mode=mode, cache=None, message_handler=heard) as client:
        yield client, changes


def kill_gateway(fleet: Fleet) -> int:
    pid: int = fleet.until(lambda: fleet.pid("gateway"), "the gateway runs")
    os.kill(pid, signal.SIGKILL)
    return pid


@modes
async def test_a_relay_s_client_lists_and_calls(running: Fleet, mode: str) -> None:
    async with relayed(running, mode) as (client, _):
        assert "raw_echo" in await names(client)
        text = "ä\n" * 50_000
        answer = await client.call_tool("raw_echo", {"message": text})
        assert answer.content[0].text == text


@modes
async def test_a_session_lives_on_when_the_gateway_is_killed(running: Fleet, mode: str) -> None:
    async with relayed(running, mode) as (client, changes):
        assert "raw_echo" in await names(client)
        for _ in range(2):
            kill_gateway(running)
            if mode == "legacy":
                await changes.next()
            async with asyncio.timeout(PATIENCE):
                assert await call_again(client) == "still here"
            assert "raw_echo" in await names(client)


async def call_again(client: Any) -> str:
    """The answer; a call that fell into the gap says that it did, and the next one goes through."""
    while True:
        try:
            answer = await client.call_tool("raw_echo", {"message": "still here"})
        except MCPError as error:
            assert "whether it took effect is not known" in str(error)
        else:
            return str(answer.content[0].text)


@modes
async def test_a_call_under_a_killed_gateway_fails_at_once_and_is_not_sent_twice(
    running: Fleet, mode: str, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    async with relayed(running, mode) as (client, _), asyncio.TaskGroup() as tasks:
        await names(client)
        waiting = tasks.create_task(failing(client, "raw_wait", file=str(begun)))
        await asyncio.to_thread(running.until, begun.exists, "the call has begun")
        kill_gateway(running)
        async with asyncio.timeout(PATIENCE):
            error = await waiting
            assert "whether it took effect is not known" in str(error)
            answer = await client.call_tool("raw_echo", {"message": "next"})
        assert answer.content[0].text == "next"
    assert begun.read_text().split() == ["begun"]


async def test_a_token_that_is_revoked_ends_what_a_relay_may_do(running: Fleet) -> None:
    token, other = running.token(), None
    async with relayed(running, "legacy", token) as (client, _):
        assert await works(client)
        claims = read_claims(token)
        config = load(running.config, running.environ)
        FileRevocations(config.revocations_dir).revoke(claims["jti"], claims["exp"])
        async with asyncio.timeout(PATIENCE):
            while await works(client):  # noqa: ASYNC110  (each turn asks)
                await asyncio.sleep(0.05)
    async with relayed(running, "legacy", other) as (client, _):
        assert await works(client)


@pytest.mark.parametrize("token", ["nonsense", "", "a.b.c"])
def test_a_token_that_is_not_taken_is_one_clear_line(running: Fleet, token: str) -> None:
    done = subprocess.run(
        command(running),
        env={**running.environ, "MCPCP_TOKEN": token},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode != 0
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("mcpcp stdio: ")


def test_without_a_fleet_too_a_token_that_is_not_taken_is_one_clear_line(fresh: Gateway) -> None:
    fresh.add_raw("raw")
    fresh.write()
    old = fresh.token(now=time.time() - 3600, ttl=60)
    done = subprocess.run(
        [sys.executable, "-m", "mcpcp", "stdio", "--no-launch", "--config", str(fresh.config)],
        env={**fresh.environ, "MCPCP_TOKEN": old},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert done.stderr == "mcpcp stdio: the token has expired\n"


def test_a_relay_ends_with_its_client_s_input_once_the_answers_are_out(running: Fleet) -> None:
    lines = (
        b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18",'
        b'"capabilities":{},"clientInfo":{"name":"t","version":"1"}}}\n'
        b'{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"raw_echo",'
        b'"arguments":{"message":"last"}}}\n'
    )
    done = subprocess.run(
        command(running, "--agent", "tester"),
        env=running.environ,
        input=lines,
        capture_output=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert b'"id":1,' in done.stdout
    assert b"last" in done.stdout


def test_a_relay_ends_when_the_fleet_is_stopped(running: Fleet) -> None:
    with subprocess.Popen(
        command(running, "--agent", "tester"),
        env=running.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as relay:
        assert relay.stdin
        assert relay.stdout
        assert relay.stderr
        relay.stdin.write('{"jsonrpc":"2.0","id":"ä","method":"ping"}\n'.encode())
        relay.stdin.flush()
        assert '"id":"ä"'.encode() in relay.stdout.readline()
        assert running.stop(running.launched[0]) == 0
        assert relay.wait(PATIENCE) == 1
        assert relay.stderr.read() == b"mcpcp stdio: the fleet has stopped\n"
        assert relay.stdout.read() == b"", "what was answered is not answered again"


def test_a_relay_s_client_that_is_killed_in_mid_call_has_the_call_cancelled(
    running: Fleet, tmp_path: Path
) -> None:
    file = tmp_path / "wait"
    relay = subprocess.Popen(
        command(running, "--agent", "tester"),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=running.environ,
        cwd=running.folder,
    )
    assert relay.stdin is not None
    with relay.stdin:
        hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t"}}
        wait = {"name": "raw_wait", "arguments": {"file": str(file)}}
        for number, (method, params) in enumerate([("initialize", hello), ("tools/call", wait)]):
            body = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
            relay.stdin.write(json.dumps(body).encode() + b"\n")
        relay.stdin.flush()
        running.until(file.exists, "the call has begun")
        relay.kill()
        relay.wait()
    running.until(lambda: "cancelled" in file.read_text(), "the server is told")
    assert running.call("raw_echo", message="on") == "on"


@pytest.fixture
def played(fresh: Gateway) -> Iterator[socket.socket]:
    """Where relays come to the gateway of a fleet, which a test plays."""
    fresh.write()
    folder = runtime_dir(fresh.config, fresh.environ)
    with socket.socket(socket.AF_UNIX) as fleet, socket.socket(socket.AF_UNIX) as gateway:
        for listener, name in ((fleet, CONTROL_SOCKET), (gateway, GATEWAY_SOCKET)):
            listener.bind(str(folder / name))
            (folder / name).chmod(0o600)
            listener.listen(100)
        gateway.settimeout(PATIENCE)
        yield gateway


def meet(gateway: socket.socket) -> tuple[socket.socket, BinaryIO]:
    """The next relay that shows a token, which is taken, and what it says from there on."""
    while True:
        connection, _ = gateway.accept()
        connection.settimeout(PATIENCE)
        said = connection.makefile("rb")
        if b"token" in said.readline():
            connection.sendall(b'{"ok":true}\n')
            return connection, said
        said.close()  # that was a look whether there is a gateway
        connection.close()


def test_a_gateway_that_dies_while_it_is_told_of_the_client_ends_no_session(
    fresh: Gateway, played: socket.socket
) -> None:
    program = fresh.stdio(fresh.token())
    with subprocess.Popen(
        [program.command, *program.args],
        env=program.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as relay:
        try:
            assert relay.stdin
            assert relay.stdout
            relay.stdin.write(b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}\n')
            relay.stdin.flush()
            for _ in range(3):  # begun; and twice told again, in vain
                connection, said = meet(played)
                assert b'"initialize"' in said.readline()
                said.close()
                connection.close()
            connection, said = meet(played)
            with connection, said:
                hello = json.loads(said.readline())
                assert hello["method"] == "initialize"
                answer = {"jsonrpc": "2.0", "id": hello["id"], "result": {}}
                connection.sendall(json.dumps(answer, separators=(",", ":")).encode() + b"\n")
                assert b"notifications/initialized" in said.readline()
                relay.stdin.write(b'{"jsonrpc":"2.0","id":2,"method":"ping"}\n')
                relay.stdin.flush()
                assert json.loads(said.readline())["id"] == 2
        finally:
            relay.kill()
