"""A lean HTTP/1.1 client for one origin: kept-alive connections, bodies as they come, no redirects.

It is the hot path of every call to an SSE or streamable HTTP server; general-purpose clients cost
several times the CPU of everything else that a gateway does for a call.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections import Counter, defaultdict, deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextvars import copy_context
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol, cast
from urllib.parse import urlsplit

import httptools

from mcpcp.backends.addresses import Address, Addresses
from mcpcp.bursts import burst
from mcpcp.errors import Interrupted, ProtocolError, Unavailable
from mcpcp.knownheads import KnownHead, known

CONNECT_TIMEOUT: Final = 10.0
IDLE_KEPT: Final = 4.0
"""Seconds an idle connection is reused for: less than the 5 s after which uvicorn closes it."""
LARGEST_BODY: Final = 64 * 1024 * 1024
_WITH_BODY: Final = (200, 202)
"""Statuses of answers whose heads are known again; others have no body, or come seldom."""
_LONGEST_KNOWN: Final = 4096
_HIGH_WATER: Final = 1024 * 1024
_MOST_READ: Final = 256 * 1024
"""Bytes that are taken from a socket at once: a large result comes in one piece."""


@dataclass(slots=True)
class Head:
    """Status and headers of an answer; header names in lower case."""

    status: int
    headers: dict[bytes, bytes]

    @property
    def content_type(self) -> bytes:
        """The media type without its parameters."""
        return _media_type(self.headers.get(b"content-type", b""))


@lru_cache(maxsize=64)
def _media_type(value: bytes) -> bytes:
    return value.partition(b";")[0].strip().lower()


class Response:
    """An answer whose head has come; `read` takes its body whole, iteration as it comes."""

    def __init__(self, connection: _Connection, head: Head) -> None:
        self._connection = connection
        self._over = False
        self.head = head

    @property
    def address(self) -> Address:
        """Which of the server's replicas answered."""
        return self._connection.address

    async def read(self) -> bytes:
        """The whole body, at most LARGEST_BODY bytes."""
        try:
            if not self._connection.complete:
                await self._connection.collect()
            return self._connection.collected()
        finally:
            self.close()

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        try:
            while (part := await self._connection.next_part()) is not None:
                yield part
        finally:
            self.close()

    async def follow(self, take: Callable[[bytes], bool]) -> None:
        """Hand each piece of the body to `take` the moment it comes, with no task in between, to
        its end or until `take` is satisfied. What `take` raises is raised here."""
        try:
            await self._connection.follow(take)
        finally:
            self.close()

    def close(self) -> None:
        """Drop the answer, wherever it stands; the connection may be another's afterwards."""
        if not self._over:
            self._over = True
            self._connection.finish()


class _Owner(Protocol):
    def release(self, connection: _Connection) -> None: ...


class _Scratch(threading.local):
    """Where a thread's connections are read to: what came is taken out before the next is read."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(_MOST_READ))


_SCRATCH: Final = _Scratch()


class _Connection(asyncio.BufferedProtocol):
    """One connection, one exchange at a time."""

    transport: asyncio.Transport

    def __init__(self, owner: _Owner, address: Address) -> None:
        self._owner = owner
        self.address = address
        self._load: Counter[Address] | None = None
        self._loop = asyncio.get_running_loop()
        self._burst = burst()
        self._parser = httptools.HttpResponseParser(self)
        self._scratch = _SCRATCH.view
        self._headers: dict[bytes, bytes] = {}
        self._head: asyncio.Future[Head] | None = None
        self._parts: deque[bytes] = deque()
        self._buffered = 0
        self._take: Callable[[bytes], bool] | None = None
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._complete = True
        self._fresh = False
        self._known: KnownHead[Head] | None = None
        self._reusable = self._in_use = self._ends_with_connection = self._collecting = False
        self._error: Exception | None = None
        self.closed = False
        self.idle_since = 0.0

    # What the client calls.

    @property
    def is_fresh(self) -> bool:
        """Whether it has idled for so short a time that the server still keeps it."""
        return self._loop.time() - self.idle_since <= IDLE_KEPT

    def send(self, data: bytes, load: Counter[Address] | None) -> asyncio.Future[Head]:
        """Write one request; the future is done when the answer's head has come.

        Until the exchange is over it counts in `load`.
        """
        self._complete = self._reusable = self._ends_with_connection = self._collecting = False
        self._in_use = self._fresh = True
        self._load = load
        if load is not None:
            load[self.address] += 1
        self._buffered = 0
        self._head = self._loop.create_future()
        self._burst.write(self.transport, data)
        return self._head

    @property
    def complete(self) -> bool:
        """Whether all of the answer has come."""
        return self._complete

    async def collect(self) -> None:
        """Wait for the whole body, which is kept until then."""
        self._collecting = True
        self._resume()
        while not self._complete:
            if self._error is not None:
                raise self._error
            self._waiter = self._loop.create_future()
            await self._waiter

    def collected(self) -> bytes:
        """What has come of the body, in one piece."""
        return b"".join(self._parts)

    async def next_part(self) -> bytes | None:
        """The next piece of the body, None at its end."""
        while not self._parts:
            if self._complete:
                return None
            if self._error is not None:
                raise self._error
            self._waiter = self._loop.create_future()
            await self._waiter
        part = self._parts.popleft()
        self._buffered -= len(part)
        if self._buffered < _HIGH_WATER // 2:
            self._resume()
        return part

    async def follow(self, take: Callable[[bytes], bool]) -> None:
        """See Response; `take` is called in the caller's context."""
        while self._parts:
            if take(self._parts.popleft()):
                return
        self._resume()
        context = copy_context()
        self._take = lambda part: context.run(take, part)
        try:
            while self._take is not None:
                if self._error is not None:
                    raise self._error
                if self._complete:
                    return
                self._waiter = self._loop.create_future()
                await self._waiter
        finally:
            self._take = None

    def finish(self) -> None:
        """The caller is done with the answer: back to the owner, or, where it is not over, away.

        Only now may the connection be used again: its parts are the caller's until then.
        """
        if not self._complete:
            self._unload()
            self._fail(Unavailable("the connection was closed"))
            self.transport.abort()
        elif self._in_use:
            self._unload()
            self._parts.clear()
            if self._reusable:
                self.idle_since = self._loop.time()
                self._owner.release(self)
            else:
                self.closed = True
                self.transport.close()

    def _unload(self) -> None:
        """The exchange is over, or will not be: it is no load any more."""
        if self._in_use and self._load is not None:
            self._load[self.address] -= 1
        self._in_use = False

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        self._burst.heard += 1
        if self._complete:  # bytes that no request asked for
            self.transport.abort()
            return
        fresh, self._fresh = self._fresh, False
        if fresh and self._known is not None and self._take_whole(self._known, nbytes):
            return
        try:
            self._parser.feed_data(self._scratch[:nbytes])
        except httptools.HttpParserError as error:
            self._fail(ProtocolError(f"the server does not speak HTTP: {error}"))
            self.transport.abort()
        else:
            if fresh and self._complete and self._reusable:
                self._known = self._learned(nbytes)

    def _take_whole(self, known_head: KnownHead[Head], size: int) -> bool:
        """Take an answer that came in one piece, with the head of the one before it, if it did."""
        begin = known_head.body_at(bytes(self._scratch[: known_head.longest]), size)
        if not begin:
            return False
        self._parts.append(bytes(self._scratch[begin:size]))
        self._complete = self._reusable = True
        if self._head is not None and not self._head.done():
            self._head.set_result(known_head.head)
        return True

    def _learned(self, size: int) -> KnownHead[Head] | None:
        """The head of the answer that has just come, in one piece of `size` bytes."""
        status = self._parser.get_status_code()
        if self._head is None or status not in _WITH_BODY or b"transfer-encoding" in self._headers:
            return None
        length = self._headers.get(b"content-length")
        start = bytes(self._scratch[: min(size, _LONGEST_KNOWN)])
        return known(Head(status, self._headers), length, start, size)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._unload()
        if exc is None and self._ends_with_connection:
            self._complete = True
            self._wake()
        self._fail(Interrupted("the server closed the connection before its answer was complete"))

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self._complete:  # a second answer to one request: whose it is nobody can say
            self._reusable = False
            raise ProtocolError("the server answered a request twice")
        self._headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value.strip()

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # an interim answer: the real one follows
            return
        framed = b"content-length" in self._headers or b"transfer-encoding" in self._headers
        self._ends_with_connection = not framed
        if self._head is not None and not self._head.done():
            self._head.set_result(Head(status, self._headers))

    def on_body(self, body: bytes) -> None:
        if self._take is not None:
            self._hand_over(body, self._take)
            return
        self._parts.append(body)
        self._buffered += len(body)
        if self._collecting:
            if self._buffered > LARGEST_BODY:
                self._fail(ProtocolError(f"the server answered more than {LARGEST_BODY} bytes"))
                self.transport.abort()
            return
        if self._buffered > _HIGH_WATER and not self._paused:
            self._paused = True
            self.transport.pause_reading()
        self._wake()

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() < 200:
            return
        self._complete = True
        self._wake()
        self._reusable = self._parser.should_keep_alive()

    def _hand_over(self, body: bytes, take: Callable[[bytes], bool]) -> None:
        """To who follows; what goes wrong there is told there, and nobody else's matter."""
        try:
            satisfied = self._error is None and take(body)
        except Exception as error:
            self._fail(error)
            self.transport.abort()
        else:
            if satisfied:
                self._take = None
                self._wake()

    def _fail(self, error: Exception) -> None:
        if self._complete:
            return
        self.closed = True
        self._error = error
        if self._head is not None and not self._head.done():
            self._head.set_exception(error)
            self._head.exception()  # a caller that was cancelled no longer looks
        self._wake()

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self.transport.resume_reading()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class HttpClient:
    """Requests to one origin, over connections that are kept while they are busy or just were.

    Where it has `addresses`, each request goes to the one with the least to do.
    """

    def __init__(
        self, url: str, headers: Mapping[str, str], addresses: Addresses | None = None
    ) -> None:
        parts = urlsplit(url)
        self._secure = parts.scheme == "https"
        self._host = parts.hostname or "localhost"
        self._port = parts.port or (443 if self._secure else 80)
        self._ssl = ssl.create_default_context() if self._secure else None
        host = f"{self._host}:{self._port}" if parts.port else self._host
        if ":" in self._host:
            host = f"[{self._host}]" + (f":{self._port}" if parts.port else "")
        self._fixed = f"host: {host}\r\n".encode() + encode_headers(headers)
        self._addresses = addresses
        self._only: Address | None = None if addresses else (self._host, self._port)
        self._session_at: Address | None = None
        self._idle: defaultdict[Address, list[_Connection]] = defaultdict(list)
        self._all: set[_Connection] = set()

    def head(self, method: str, target: str, headers: Mapping[str, str]) -> bytes:
        """A request's head, for `send`; only what its body and its own headers add is missing."""
        start = f"{method} {target} HTTP/1.1\r\n".encode("ascii")
        return b"".join((start, self._fixed, encode_headers(headers)))

    async def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
        *,
        lasting: bool = False,
    ) -> Response:
        """Send a request; see `send`."""
        return await self.send(self.head(method, target, headers), body, lasting=lasting)

    async def send(
        self,
        head: bytes,
        body: bytes | None = None,
        *,
        home: Address | None = None,
        lasting: bool = False,
    ) -> Response:
        """Send a request whose head was made before, and wait for the head of its answer.

        It goes to `home`, where that is one of the addresses still. A `lasting` one begins a
        session, or is a stream that stays open: it goes where the fewest sessions are, and does not
        count as a call. Raises Unavailable where no connection could be made, Interrupted where it
        ended afterwards.
        """
        if body is None:
            data = head + b"\r\n"
        else:
            data = b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body)
        if self._only is not None:
            connection = self._take_idle(self._only) or await self._connect(self._only)
        else:
            connection = await self._least_busy(home, lasting=lasting)
        try:
            load = None if lasting or self._addresses is None else self._addresses.calls
            return Response(connection, await connection.send(data, load))
        except BaseException:
            connection.finish()
            raise

    def stay_with(self, answer: Response) -> None:
        """From now on go where `answer` came from: it knows what the other replicas do not."""
        self._only = answer.address
        if self._addresses is not None and self._session_at is None:
            self._session_at = answer.address
            self._addresses.sessions[answer.address] += 1

    def close(self) -> None:
        """Close every connection; exchanges under way fail."""
        if self._addresses is not None and self._session_at is not None:
            self._addresses.sessions[self._session_at] -= 1
            self._session_at = None
        for connection in list(self._all):
            connection.transport.abort()
        self._all.clear()
        self._idle.clear()

    def release(self, connection: _Connection) -> None:
        """Take back a connection whose exchange is over."""
        self._idle[connection.address].append(connection)

    async def _least_busy(self, home: Address | None, *, lasting: bool) -> _Connection:
        """A connection to `home`, or to that of the server's replicas with the least to do."""
        known = cast(Addresses, self._addresses)
        try:
            addresses = await known.in_turn(known.sessions if lasting else known.calls)
        except OSError as error:
            raise self._unreachable(error) from None
        if home in addresses:
            addresses.sort(key=lambda address: address != home)
        failed: Unavailable | None = None
        for address in addresses:
            try:
                return self._take_idle(address) or await self._connect(address)
            except Unavailable as error:
                known.doubt()
                failed = error
        raise failed or Unavailable(f"{self._host} has no address")

    def _take_idle(self, address: Address) -> _Connection | None:
        idle = self._idle[address]
        while idle:
            connection = idle.pop()
            if not connection.closed and not connection.transport.is_closing():
                if connection.is_fresh:
                    return connection
                connection.transport.close()
            self._all.discard(connection)
        return None

    async def _connect(self, address: Address) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self, address),
                    *address,
                    ssl=self._ssl,
                    server_hostname=self._host if self._ssl else None,
                )
        except TimeoutError:
            raise Unavailable(
                f"{self._host}:{address[1]} did not answer within {CONNECT_TIMEOUT:g} s"
            ) from None
        except OSError as error:
            raise self._unreachable(error, address[1]) from None
        self._forget_closed()
        self._all.add(connection)
        return connection

    def _forget_closed(self) -> None:
        """Replicas go, and their addresses are not asked for again."""
        self._all = {c for c in self._all if not c.closed}
        for address, idle in list(self._idle.items()):
            if all(c.closed for c in idle):
                del self._idle[address]

    def _unreachable(self, error: OSError, port: int | None = None) -> Unavailable:
        reason = error.strerror or str(error)
        return Unavailable(f"cannot connect to {self._host}:{port or self._port}: {reason}")


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """As HTTP writes them; ProtocolError where one holds a line break."""
    lines = []
    for name, value in headers.items():
        if "\r" in value or "\n" in value:
            raise ProtocolError(f"header {name} holds a line break")
        lines.append(f"{name}: {value}\r\n")
    return "".join(lines).encode("latin-1")
