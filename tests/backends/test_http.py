"""The HTTP client against raw servers: every framing, every kind of death, and no mix-ups."""

from __future__ import annotations

import asyncio
import contextlib
import random
import resource
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from mcpcp.backends import http
from mcpcp.backends.events import events
from mcpcp.backends.http import HttpClient
from mcpcp.errors import Interrupted, McpcpError, ProtocolError, Unavailable
from tests.backends.raw import PATIENCE, Handler, Server, answering, ask, chunked, serving, whole
from tests.ports import reserve

pytestmark = pytest.mark.anyio

dice = random.Random()  # noqa: S311  (no secret)


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """On both loops: each has its own way of reading into a buffer."""
    return "asyncio", {"use_uvloop": request.param == "uvloop" and sys.platform != "win32"}


@pytest.fixture(autouse=True)
def _kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections are used again however long this machine takes from one request to the next."""
    monkeypatch.setattr(http, "IDLE_KEPT", 10 * PATIENCE)


@asynccontextmanager
async def client_of(handler: Handler) -> AsyncIterator[tuple[HttpClient, Server]]:
    async with serving(handler) as server:
        client = HttpClient(server.url, {"x-fixed": "yes"})
        try:
            async with asyncio.timeout(PATIENCE):
                yield client, server
        finally:
            client.close()


async def get(client: HttpClient, target: str = "/mcp") -> bytes:
    return await (await client.request("GET", target, {})).read()


async def test_a_request_carries_host_headers_and_length() -> None:
    async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (asked := await ask(reader)) is not None:
            text = f"{asked.line}|{asked.headers}|{asked.body!r}"
            writer.write(whole(text.encode()))

    async with client_of(tell) as (client, server):
        answer = await client.request("POST", "/mcp?a=b", {"x-own": "1"}, b"body")
        line, headers, body = (await answer.read()).decode().split("|")
    host = server.url.split("/")[2]
    assert line == "POST /mcp?a=b HTTP/1.1"
    assert body == "b'body'"
    expected = {"host": host, "x-fixed": "yes", "x-own": "1", "content-length": "4"}
    assert headers == str(expected)


async def test_a_body_of_known_length_comes_whole() -> None:
    async with client_of(answering(whole(b"x" * 300_000))) as (client, _):
        assert await get(client) == b"x" * 300_000


async def test_a_chunked_body_comes_whole() -> None:
    parts = [bytes([65 + n % 26]) * n for n in range(1, 200)]
    async with client_of(answering(chunked(*parts))) as (client, _):
        assert await get(client) == b"".join(parts)


async def test_an_answer_in_single_bytes_is_understood() -> None:
    async def dribble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await ask(reader) is not None:
            for byte in chunked(b"one", b"two"):
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0)

    async with client_of(dribble) as (client, _):
        assert await get(client) == b"onetwo"
        assert await get(client) == b"onetwo"


async def test_a_body_that_ends_with_its_connection_is_taken() -> None:
    async def until_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ask(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nall of it")

    async with client_of(until_close) as (client, server):
        assert await get(client) == b"all of it"
        assert await get(client) == b"all of it"
        assert server.connections == 2


async def test_answers_without_a_body_are_complete() -> None:
    answers = (whole(b"", "202 Accepted"), b"HTTP/1.1 204 No Content\r\n\r\n", whole(b"last"))
    async with client_of(answering(*answers)) as (client, server):
        assert [await get(client) for _ in range(3)] == [b"", b"", b"last"]
        assert server.connections == 1


async def test_an_interim_answer_is_passed_over() -> None:
    both = b"HTTP/1.1 100 Continue\r\n\r\n" + whole(b"real", headers="x-a: 1\r\n")
    async with client_of(answering(both)) as (client, _):
        answer = await client.request("GET", "/", {})
        assert answer.head.status == 200
        assert await answer.read() == b"real"


async def test_one_connection_serves_requests_one_after_the_other() -> None:
    async with client_of(answering(whole(b"1"), chunked(b"2"))) as (client, server):
        for _ in range(20):
            await get(client)
        assert server.connections == 1


async def test_answers_on_one_connection_are_each_read_as_if_it_were_the_first() -> None:
    answers = [
        (200, b"one", whole(b"one")),
        (200, b"and two", whole(b"and two")),
        (200, b"", whole(b"")),
        (200, b"three", chunked(b"thr", b"ee")),
        (200, b"four", whole(b"four", headers="x: y\r\n")),
        (404, b"five", whole(b"five", "404 Not Found")),
        (404, b"six", whole(b"six", "404 Not Found")),
        (202, b"", whole(b"", "202 Accepted")),
        (204, b"", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (200, b"x" * 100_000, whole(b"x" * 100_000)),
        (200, b"seven", whole(b"seven")),
    ]
    async with client_of(answering(*(sent for _, _, sent in answers))) as (client, server):
        for status, body, sent in answers:
            answer = await client.request("GET", "/mcp", {})
            assert (answer.head.status, await answer.read()) == (status, body), sent[:100]
            assert (b"x" in answer.head.headers) == (body == b"four")
    assert server.connections == 1


async def test_a_second_answer_to_one_request_is_nobodys_however_well_its_head_is_known() -> None:
    twice = whole(b"two") + whole(b"stray")
    async with client_of(answering(whole(b"one"), twice, whole(b"three"))) as (client, server):
        assert [await get(client) for _ in range(3)] == [b"one", b"two", b"three"]
    assert server.connections == 2


async def test_a_server_that_says_close_gets_a_new_connection_each_time() -> None:
    answer = whole(b"bye", headers="connection: close\r\n")
    async with client_of(answering(answer)) as (client, server):
        for _ in range(3):
            assert await get(client) == b"bye"
        assert server.connections == 3


async def test_of_64_requests_at_once_each_gets_its_own_answer() -> None:
    """Heads and bodies come apart and in random order: an answer once went to another request."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (asked := await ask(reader)) is not None:
            half = len(asked.body) // 2
            framed = dice.choice((chunked(asked.body[:half], asked.body[half:]), None))
            data = framed or whole(asked.body)
            cut = dice.randrange(len(data))
            writer.write(data[:cut])
            await asyncio.sleep(dice.random() / 500)
            writer.write(data[cut:])

    async with client_of(echo) as (client, server):

        async def caller(number: int) -> None:
            for turn in range(20):
                body = f"{number}/{turn}/".encode() * dice.randrange(1, 50)
                answer = await client.request("POST", "/", {}, body)
                await asyncio.sleep(dice.random() / 500)
                assert await answer.read() == body

        async with asyncio.TaskGroup() as tasks:
            for number in range(64):
                tasks.create_task(caller(number))
        assert server.connections <= 64


async def echo_twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Gives each body back in two pieces, in the midst of whatever others are told."""
    while (asked := await ask(reader)) is not None:
        data = dice.choice((chunked, whole))(asked.body)
        cut = dice.randrange(len(data))
        for part in (data[:cut], data[cut:]):
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)


async def call_with_large_bodies(client: HttpClient) -> None:
    """16 callers at once; what comes for one must not end up in another's answer."""

    async def caller(number: int) -> None:
        for turn in range(4):
            body = f"{number}/{turn}/".encode() * 2 ** dice.randrange(18)
            answer = await client.request("POST", "/", {}, body)
            assert await answer.read() == body

    async with asyncio.TaskGroup() as tasks:
        for number in range(16):
            tasks.create_task(caller(number))


async def test_large_answers_that_come_at_once_do_not_mix() -> None:
    async with client_of(echo_twice) as (client, _):
        await call_with_large_bodies(client)


async def test_over_tls_too_large_answers_that_come_at_once_do_not_mix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(make_certificate(tmp_path / "server.pem")))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    async with serving(echo_twice, secure=context) as server, asyncio.timeout(PATIENCE):
        client = HttpClient(server.url, {})
        try:
            await call_with_large_bodies(client)
        finally:
            client.close()


def make_certificate(file: Path) -> Path:
    """A key and the certificate with which it vouches for itself as 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    file.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + certificate.public_bytes(Encoding.PEM)
    )
    return file


async def test_callers_that_give_up_do_not_shift_others_answers() -> None:
    async def slow_echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (asked := await ask(reader)) is not None:
            await asyncio.sleep(dice.random() / 100)
            writer.write(whole(asked.body))

    async with client_of(slow_echo) as (client, _):

        async def caller(number: int) -> None:
            for turn in range(20):
                body = f"{number}/{turn}".encode()
                try:
                    async with asyncio.timeout(dice.random() / 80):
                        answer = await client.request("POST", "/", {}, body)
                        assert await answer.read() == body
                except TimeoutError:
                    pass

        async with asyncio.TaskGroup() as tasks:
            for number in range(32):
                tasks.create_task(caller(number))


@pytest.mark.parametrize(
    "fragment",
    [
        pytest.param(whole(b"x" * 100)[:-50], id="within its length"),
        pytest.param(chunked(b"half", end=False), id="between chunks"),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-", id="within the head"),
        pytest.param(b"", id="before the head"),
    ],
)
async def test_a_server_that_dies_in_an_answer_interrupts_the_request(fragment: bytes) -> None:
    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ask(reader)
        writer.write(fragment)
        await writer.drain()

    async with client_of(die) as (client, _):
        with pytest.raises(Interrupted):
            await get(client)


async def test_death_by_reset_interrupts_too() -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ask(reader)
        writer.transport.abort()

    async with client_of(reset) as (client, _):
        with pytest.raises(Interrupted):
            await get(client)


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x00\x01\x02\x03" * 50,
        b"HTTP/9.9 2xx what\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
    ],
)
async def test_what_is_not_http_is_refused_and_dropped(garbage: bytes) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ask(reader)
        writer.write(garbage)
        await reader.read()  # until the client drops us

    async with client_of(speak) as (client, _):
        with pytest.raises((ProtocolError, Interrupted)):
            await get(client)


async def test_bytes_that_nobody_asked_for_end_the_connection() -> None:
    async def chatter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await ask(reader) is not None:
            writer.write(whole(b"asked") + whole(b"not asked"))

    async with client_of(chatter) as (client, _):
        for _ in range(3):
            with contextlib.suppress(McpcpError):  # right too; the other answer would not be
                assert await get(client) == b"asked"


async def test_nobody_at_home_is_unavailable() -> None:
    with reserve() as port, pytest.raises(Unavailable, match="cannot connect"):
        await get(HttpClient(f"http://127.0.0.1:{port}/mcp", {}))


async def test_an_idle_connection_is_not_used_again_once_it_may_be_stale(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with client_of(answering(whole(b"ok"))) as (client, server):
        await get(client)
        monkeypatch.setattr(http, "IDLE_KEPT", -1.0)
        await get(client)
        assert server.connections == 2


async def test_a_connection_that_the_server_closed_while_idle_is_not_used_again() -> None:
    closed = asyncio.Event()

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ask(reader)
        writer.write(whole(b"ok"))
        await writer.drain()
        writer.close()
        closed.set()

    async with client_of(once) as (client, server):
        for _ in range(5):
            assert await get(client) == b"ok"
            await closed.wait()
            await server.all_closed()
            closed.clear()
            while not all(c.closed for c in client._all):  # noqa: ASYNC110  (nobody is told)
                await asyncio.sleep(0.01)
        assert server.connections == 5


async def test_closing_the_client_ends_what_is_under_way() -> None:
    arrived = asyncio.Semaphore(0)

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ask(reader)
        arrived.release()
        await reader.read()

    async with client_of(never) as (client, _), asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(outcome(client)) for _ in range(5)]
        for _ in asked:
            await arrived.acquire()
        client.close()
    assert all(isinstance(task.result(), Interrupted) for task in asked)


async def outcome(client: HttpClient) -> Exception:
    with pytest.raises(McpcpError) as caught:
        await get(client)
    return caught.value


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("kind", ["body", "line"])
async def test_an_endless_answer_is_refused_in_bounded_memory(kind: str) -> None:
    block = b"x" * 2**20
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await ask(reader)
        writer.write(chunked(content_type="text/event-stream", end=False))
        while True:
            writer.write(b"%x\r\n%s\r\n" % (len(block), block))
            sent += len(block)
            await writer.drain()

    before = peak_memory()
    async with client_of(flood) as (client, _):
        answer = await client.request("GET", "/", {})
        with pytest.raises(ProtocolError, match="more than"):
            if kind == "body":
                await answer.read()
            else:
                async for _ in events(answer):
                    pytest.fail("no line ever ended")
    assert sent < 100 * 2**20
    assert peak_memory() - before < 200 * 2**20


async def test_a_reader_that_pauses_stops_the_server_from_sending_on() -> None:
    sent = 0
    stuck = asyncio.Event()

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await ask(reader)
        writer.write(chunked(end=False))
        try:
            async with asyncio.timeout(1):
                while True:
                    writer.write(b"10000\r\n%s\r\n" % (b"x" * 65536))
                    sent += 65536
                    await writer.drain()
        except TimeoutError:
            stuck.set()
        await reader.read()

    async with client_of(flood) as (client, _):
        answer = await client.request("GET", "/", {})
        await stuck.wait()
        assert sent < 32 * 2**20, "kernel buffers and ours, no more"
        answer.close()


async def test_a_header_cannot_be_split_by_a_line_break() -> None:
    with pytest.raises(ProtocolError):
        HttpClient("http://localhost/", {"x": "a\r\nb: c"})
