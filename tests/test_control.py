import asyncio
import contextlib
import gc
import json
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mcpcp.control import CONTROL_SOCKET, ControlClient, connect_private, listen_private
from mcpcp.errors import DeadlineExceeded, FleetError, Unavailable
from tests.fleet import PATIENCE

pytestmark = pytest.mark.anyio


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        op = json.loads(line)["op"]
        if op == "silence":
            await asyncio.Event().wait()
        said = {"error": "no such thing"} if op == "wrong" else {"said": op}
        writer.write(json.dumps(said).encode() + b"\n")


async def ask(path: Path, line: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(sock=connect_private(path))
    writer.write(line)
    got = await reader.readline()
    writer.close()
    return got


async def test_a_private_socket_is_for_its_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    async with listen_private(path, echo):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert await ask(path, b"hi\n") == b"hi\n"


async def test_a_private_socket_leaves_nothing(tmp_path: Path) -> None:
    async with listen_private(tmp_path / "x.sock", echo):
        pass
    assert list(tmp_path.iterdir()) == []


async def test_one_that_was_left_by_a_dead_process_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(Unavailable):
        connect_private(path)
    async with listen_private(path, echo):
        assert await ask(path, b"hi\n") == b"hi\n"


async def test_closing_does_not_remove_a_successors_socket(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    async with contextlib.AsyncExitStack() as second:
        async with listen_private(path, echo):
            await second.enter_async_context(listen_private(path, echo))
        assert await ask(path, b"hi\n") == b"hi\n"


async def test_the_end_does_not_wait_for_clients(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    async with asyncio.timeout(PATIENCE):
        async with listen_private(path, echo):
            reader, writer = await asyncio.open_connection(sock=connect_private(path))
            writer.write(b"hi\n")
            await reader.readline()
        assert await reader.read() == b""
        writer.close()


# Python 3.11 forgets a connection whose listener closes in the very turn after it was accepted.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_client_that_comes_while_it_closes_is_turned_away(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    loop, problems = asyncio.get_running_loop(), list[object]()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: problems.append(context))
    for turns in range(6):  # it is accepted in one turn of the loop, and handed over in a later one
        async with listen_private(path, echo):
            connection = connect_private(path)
            for _ in range(turns):
                await asyncio.sleep(0)
        with connection:
            for _ in range(6):
                await asyncio.sleep(0)
    loop.set_exception_handler(before)
    gc.collect()
    assert not problems


async def test_a_client_that_breaks_its_handler_harms_no_other(tmp_path: Path) -> None:
    async def fail(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        if line == b"bad\n":
            raise ValueError(line)
        writer.write(line)

    path = tmp_path / "x.sock"
    async with listen_private(path, fail):
        assert await ask(path, b"bad\n") == b""
        assert await ask(path, b"good\n") == b"good\n"


def test_without_a_fleet_there_is_nobody_to_ask(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        ControlClient.connect(tmp_path)


async def test_the_client_asks_and_is_answered(tmp_path: Path) -> None:
    async with listen_private(tmp_path / CONTROL_SOCKET, answer):
        await asyncio.to_thread(_talk, tmp_path)


def _talk(folder: Path) -> None:
    with ControlClient.connect(folder) as client:
        assert client.ask("status") == {"said": "status"}
        with pytest.raises(FleetError, match="no such thing"):
            client.ask("wrong")
        assert client.ask("again") == {"said": "again"}
        with pytest.raises(DeadlineExceeded):
            client.ask("silence", timeout=0.05)


async def test_a_supervisor_that_ends_is_noticed(tmp_path: Path) -> None:
    async def leave(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readline()

    async with listen_private(tmp_path / CONTROL_SOCKET, leave):
        client = await asyncio.to_thread(ControlClient.connect, tmp_path)
        with client, pytest.raises(Unavailable):
            await asyncio.to_thread(client.ask, "status")


async def test_close_wakes_a_thread_that_listens(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def be_silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readline()
        asked.set()
        await reader.read()

    async with listen_private(tmp_path / CONTROL_SOCKET, be_silent):
        client = await asyncio.to_thread(ControlClient.connect, tmp_path)
        heard = threading.Event()

        def listen() -> None:
            with contextlib.suppress(Unavailable):
                client.ask("silence")
            heard.set()

        thread = threading.Thread(target=listen)
        thread.start()
        async with asyncio.timeout(PATIENCE):
            await asked.wait()
        await asyncio.to_thread(client.close)
        assert await asyncio.to_thread(heard.wait, PATIENCE)
        await asyncio.to_thread(thread.join, PATIENCE)


def test_asking_needs_no_asyncio() -> None:
    program = "import sys, mcpcp.control; sys.exit('asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
