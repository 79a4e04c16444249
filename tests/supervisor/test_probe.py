import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable

import pytest

from mcpcp.errors import FleetError
from mcpcp.supervisor.probe import Health, NotServing, Target, ask, until_ready
from tests.fleet import PATIENCE

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def answering(port: int, answer: bytes | None) -> AsyncIterator[list[bytes]]:
    """A server that gives everybody that answer (None: none at all); yields what it was asked."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            if answer is None:
                await reader.read()
            else:
                writer.write(answer)
                await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    closed = False
    async with asyncio.TaskGroup() as tasks:

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if closed:  # the loop had taken it from the listener already
                writer.close()
            else:
                tasks.create_task(serve(reader, writer))

        async with await asyncio.start_server(accept, "127.0.0.1", port):
            yield asked
        closed = True


def ok(body: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{body}".encode()


@pytest.mark.parametrize(
    ("answer", "health"),
    [
        (ok('{"status": "ok", "pid": 7}'), Health("ok", 7)),
        (
            ok('{"status": "degraded", "pid": 7, "detail": "no engine"}'),
            Health("degraded", 7, "no engine"),
        ),
        (ok("fine"), Health()),
        (ok("[1]"), Health()),
        (ok('{"pid": "7"}'), Health()),
    ],
)
async def test_health_is_what_the_server_says(
    free_port: Callable[[], int], answer: bytes, health: Health
) -> None:
    port = free_port()
    async with answering(port, answer) as asked:
        assert await ask(Target(port, "/health"), PATIENCE) == health
    assert asked[0].startswith(b"GET /health HTTP/1.0\r\n")


def test_health_reads_as_one_line() -> None:
    assert str(Health("ok", 7)) == "ok"
    assert str(Health("degraded", 7, "no engine")) == "degraded: no engine"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "HTTP status 503"),
        (b"SSH-2.0-OpenSSH\r\n", "no HTTP answer"),
        (b"", "no HTTP answer"),
        (None, "no answer within 0.1 s"),
    ],
)
async def test_what_is_no_healthy_answer_is_told(
    free_port: Callable[[], int], answer: bytes | None, why: str
) -> None:
    port = free_port()
    async with answering(port, answer):
        with pytest.raises(NotServing, match=why):
            await ask(Target(port, "/health"), 0.1 if answer is None else PATIENCE)


async def test_nobody_there_is_told(free_port: Callable[[], int]) -> None:
    with pytest.raises(NotServing, match=r"refused|failed"):
        await ask(Target(free_port(), "/health"), PATIENCE)


async def test_an_endless_answer_is_not_read_to_its_end(free_port: Callable[[], int]) -> None:
    port = free_port()
    async with answering(port, ok(" " * 10_000_000)):
        assert await ask(Target(port, "/health"), PATIENCE) == Health()


async def test_without_a_path_accepting_is_enough(free_port: Callable[[], int]) -> None:
    port = free_port()
    async with answering(port, b""):
        assert await ask(Target(port, None), PATIENCE) == Health()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "127.0.0.1"])
async def test_a_server_that_listens_everywhere_is_asked_here(host: str) -> None:
    assert Target(1, None, host).address == "127.0.0.1"


async def test_ready_is_when_the_process_itself_answers(free_port: Callable[[], int]) -> None:
    port = free_port()
    target = Target(port, "/health")
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(until_ready(target, os.getpid()))
        with pytest.raises(NotServing):
            await ask(target, PATIENCE)
        assert not waiting.done()
        async with answering(port, ok(f'{{"pid": {os.getpid()}}}')):
            assert (await waiting).pid == os.getpid()


async def test_an_answer_by_somebody_elses_process_is_refused(
    free_port: Callable[[], int],
) -> None:
    port = free_port()
    async with answering(port, ok('{"pid": 1}')):
        with pytest.raises(FleetError, match=rf"port {port} is answered by pid 1 \("):
            await until_ready(Target(port, "/health"), os.getpid())


@pytest.mark.parametrize("path", [None, "/health"])
async def test_without_a_pid_the_listener_must_be_in_the_process(
    free_port: Callable[[], int], path: str | None
) -> None:
    port = free_port()
    async with answering(port, ok("fine")):
        assert (await until_ready(Target(port, path), os.getpid())).status == "ok"
        child = await asyncio.create_subprocess_exec("sleep", "60")
        try:
            with pytest.raises(FleetError, match=f"used by pid {os.getpid()}"):
                await until_ready(Target(port, path), child.pid)
        finally:
            child.kill()
            await child.wait()
