"""Private sockets in a fleet's runtime folder, and the client of the supervisor's control socket.

A private socket answers only processes of the same user: a unix socket of mode 0600, or, where
there are none (Windows), loopback TCP whose port and secret lie in a file of mode 0600. This module
imports little, because `mcpcp stdio` must be up in 0.1 s: asyncio only when somebody listens.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import logging
import secrets
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from mcpcp.errors import DeadlineExceeded, FleetError, Unavailable
from mcpcp.files import write_atomically

if TYPE_CHECKING:
    import asyncio

    OnClient: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

logger = logging.getLogger(__name__)

CONTROL_SOCKET: Final = "control.sock"
GATEWAY_SOCKET: Final = "gateway.sock"
LONGEST_LINE: Final = 64 * 1024 * 1024
HELLO_TIMEOUT: Final = 5.0
ANSWER_TIMEOUT: Final = 30.0
"""Seconds in which whoever listens answers, unless it hangs: a busy machine takes its time."""


def connect_private(path: Path, timeout: float = ANSWER_TIMEOUT) -> socket.socket:
    """A connected stream socket with that timeout set; raises Unavailable when nobody listens."""
    try:
        return _connect(path, timeout)
    except (OSError, ValueError, KeyError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise Unavailable(f"nobody answers at {path}: {reason}") from None


@contextlib.asynccontextmanager
async def listen_private(
    path: Path, on_client: OnClient, limit: int = LONGEST_LINE
) -> AsyncIterator[None]:
    """Serve each client in a task of its own, which ends, cancelled if need be, with this context.

    What lay at `path` is replaced atomically: whoever holds the fleet's lock may listen. `limit` is
    the longest line that the reader accepts, in bytes.
    """
    import asyncio

    listener, secret = _bind(path)
    inode = path.stat().st_ino
    tasks: set[asyncio.Task[None]] = set()
    closed = False

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if closed:  # the loop had taken it from the listener already
            writer.close()
            return
        task = clients.create_task(_serve(path.name, on_client, secret, reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(lambda _: writer.close())  # also of one cancelled before it began

    try:
        async with asyncio.TaskGroup() as clients:
            if sys.platform == "win32":
                server = await asyncio.start_server(accept, sock=listener, limit=limit)
            else:
                server = await asyncio.start_unix_server(accept, sock=listener, limit=limit)
            try:
                yield
            finally:
                server.close()
                closed = True
                for task in tasks:
                    task.cancel()
    finally:
        with contextlib.suppress(OSError):
            if path.stat().st_ino == inode:
                path.unlink()


class ControlClient:
    """A connection to a fleet's supervisor: one question at a time, or a stream of status lines."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("rb")

    @classmethod
    def connect(cls, runtime_dir: Path, timeout: float = ANSWER_TIMEOUT) -> ControlClient:
        """`timeout` bounds the connecting and each answer; raises Unavailable without a fleet."""
        return cls(connect_private(runtime_dir / CONTROL_SOCKET, timeout))

    def ask(self, op: str, timeout: float | None = None, **fields: Any) -> dict[str, Any]:
        """The answer to `op`; raises FleetError with the reason when the supervisor says no."""
        if timeout is not None:
            self._connection.settimeout(timeout)
        self.send(op, **fields)
        return self.receive()

    def send(self, op: str, **fields: Any) -> None:
        """Ask without waiting for the answer."""
        try:
            self._connection.sendall(json.dumps({"op": op, **fields}).encode() + b"\n")
        except TimeoutError:
            raise DeadlineExceeded("the supervisor does not read what it is asked") from None
        except OSError as error:
            raise Unavailable(f"the supervisor went away: {error.strerror}") from None

    def receive(self) -> dict[str, Any]:
        """The next answer or status line; raises Unavailable when the supervisor has ended."""
        try:
            line = self._lines.readline(LONGEST_LINE)
        except TimeoutError:
            raise DeadlineExceeded("the supervisor did not answer in time") from None
        except (OSError, ValueError) as error:  # ValueError: another thread has closed us
            raise Unavailable(f"the supervisor went away: {error}") from None
        if not line.endswith(b"\n"):
            raise Unavailable("the supervisor ended the connection")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise FleetError(str(answer["error"]))
        return answer

    def adopt(self) -> Iterator[dict[str, Any]]:
        """Hold the background fleet: its status now and at every change, until it ends.

        Closing the client without `detach` stops the fleet.
        """
        yield self.ask("adopt")
        self._connection.settimeout(None)
        while True:
            try:
                yield self.receive()
            except Unavailable:
                return

    def detach(self) -> None:
        """Let an adopted fleet live on after this connection."""
        self.send("detach")

    def fileno(self) -> int:
        """For select: readable when `receive` would not wait."""
        return self._connection.fileno()

    def close(self) -> None:
        """End the connection, also under a thread that is in `receive`."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._lines.close()
        self._connection.close()

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


async def _serve(
    name: str,
    on_client: OnClient,
    secret: str | None,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    try:
        if await _has_secret(reader, secret):
            await on_client(reader, writer)
    except (OSError, TimeoutError, EOFError) as error:
        logger.debug("a client of %s went away: %r", name, error)
    except Exception:
        logger.exception("serving a client of %s failed", name)


async def _has_secret(reader: asyncio.StreamReader, secret: str | None) -> bool:
    if secret is None:
        return True
    import asyncio

    async with asyncio.timeout(HELLO_TIMEOUT):
        line = await reader.readline()
    return hmac.compare_digest(line.strip(), secret.encode())


if sys.platform == "win32":

    def _connect(path: Path, timeout: float) -> socket.socket:
        where = json.loads(path.read_text("utf-8"))
        connection = socket.create_connection(("127.0.0.1", int(where["port"])), timeout)
        connection.sendall(where["secret"].encode() + b"\n")
        return connection

    def _bind(path: Path) -> tuple[socket.socket, str | None]:
        secret = secrets.token_hex(32)
        listener = socket.create_server(("127.0.0.1", 0))
        where = {"port": listener.getsockname()[1], "secret": secret}
        write_atomically(path, json.dumps(where).encode())
        return listener, secret

else:

    def _connect(path: Path, timeout: float) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout)
            connection.connect(str(path))
        except BaseException:
            connection.close()
            raise
        return connection

    def _bind(path: Path) -> tuple[socket.socket, str | None]:
        draft = path.with_name(f".{secrets.token_hex(4)}")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(draft))
            draft.chmod(0o600)
            listener.listen(128)
            draft.replace(path)  # it listens already: no moment at which a connection is refused
        except BaseException:
            listener.close()
            draft.unlink(missing_ok=True)
            raise
        return listener, None
